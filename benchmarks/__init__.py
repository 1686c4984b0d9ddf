"""What the claims about speed are measured with; see README.rst."""
