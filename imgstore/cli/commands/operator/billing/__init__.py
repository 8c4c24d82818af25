"""Commands for the bill: statements, exports, charts, the log of sealed entries, budgets and price lists."""
