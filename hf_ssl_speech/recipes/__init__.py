"""Complete runs, as the scripts in examples/ call them."""
