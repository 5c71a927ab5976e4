"""How long a fit takes against the forward passes that it cannot do without."""
