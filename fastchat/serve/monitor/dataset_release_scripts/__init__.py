"""The published steps of two releases, one command each; `release` runs them in one go."""
