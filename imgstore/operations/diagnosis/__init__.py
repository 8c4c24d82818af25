"""The facts of `imgstore doctor`. `policy/diagnosis.py` judges the facts."""
