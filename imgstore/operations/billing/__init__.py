"""Price lists, statements, explanations, corrections, budgets and exports of the ledger."""
