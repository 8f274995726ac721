"""The shared package of the course Gradients in Depth: a few modules, one job each."""
