"""From YAML and words to checked, frozen dataclasses; and what is said of what was not right."""
