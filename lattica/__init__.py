"""Share models, tensors and messages between peers without a broker."""
