"""What a run will do: the images that are selected, the plan, its numbers, the room on the disk."""
