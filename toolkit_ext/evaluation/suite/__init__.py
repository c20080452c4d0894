"""The attacks of an evaluation: AutoAttack, further columns, budgets, and the precision they run in."""
