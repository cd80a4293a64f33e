"""Training stages of the storybook model's parts."""
