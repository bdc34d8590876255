"""The model that ``--model`` names."""
