"""Every way to make a prompt for a task, one module each, and `catalogue`, which lists them."""
