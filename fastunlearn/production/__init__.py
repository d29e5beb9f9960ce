"""From a pilot to the production run: one configuration file, a plan, a pilot, a run that restarts, a ledger."""
