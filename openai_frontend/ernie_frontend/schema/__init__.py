"""The fields of OpenAI requests that are understood, with their types; limits of sampling are in ernie_wire."""
