"""Parts of the links sensitivity, allocate and select: estimates, runtimes, budgets, candidates."""
