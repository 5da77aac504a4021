"""Size, work, time, memory and energy of the teacher and the students, side by side."""
