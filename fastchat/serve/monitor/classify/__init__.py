"""Labels of battles by a judge: what a prompt asks for, and how well labels fit people's."""
