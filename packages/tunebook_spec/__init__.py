"""The spec: what a scenario is, and the errors that speak of it."""
