"""Computes a plan: plan to arrays, model, logits, sampled tokens. No policy here."""
