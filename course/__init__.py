"""The course made of the notebooks: editions for students and lecturers, a book, slides."""
