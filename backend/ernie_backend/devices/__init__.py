"""What computes, and what this machine has for it."""
