"""The sides: the same tasks in npadv, PyTorch, JAX, autograd and plain NumPy, each as its own users would write them."""
