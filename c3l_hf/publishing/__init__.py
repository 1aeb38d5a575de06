"""What a run publishes: cards, manifest, repositories, and checks of all that."""
