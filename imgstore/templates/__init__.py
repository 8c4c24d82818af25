"""Evaluate Azure Resource Manager's templates: parameters, expressions, functions and resources."""
