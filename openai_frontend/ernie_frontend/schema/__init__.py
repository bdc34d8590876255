"""Requests and responses of the HTTP API, and their documentation; sampling limits are in ernie_wire."""
