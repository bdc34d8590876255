"""What computes, and what this machine has of it."""
