"""Users' histories: one protocol, two stores (sqlite, embedded and durable; Redis, shared)."""
