"""The command ``doctor``: what this machine lacks to serve, each finding with its fix."""
