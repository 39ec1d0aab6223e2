"""Programs that challenges give to the agent as texts, or run in its sandbox. They need Python alone."""
