"""The process that speaks items: `recommender` is the use case, `rest` translates it, `server` runs it."""
