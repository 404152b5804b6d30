"""Long trials of what must not break: `make torture` runs them; the default suite runs short forms of the same."""
