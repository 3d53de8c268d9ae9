"""Making and changing jobs and files."""
