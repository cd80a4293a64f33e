"""What trains the parts of the storybook model."""
