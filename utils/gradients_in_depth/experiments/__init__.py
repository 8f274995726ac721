"""The computations behind the explorers: plain functions from numbers to numbers, a module for each topic."""
