"""The storybook benchmark and its report."""
