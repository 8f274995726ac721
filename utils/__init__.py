"""The shared package of the course Gradients in Depth: ten small modules, one job each."""
