"""The target model: loading, building, checkpoints."""
