"""Users' histories: one protocol, interchangeable stores."""
