-- Grants of everybody are listed by id: an index that every login wrote and one listing read is gone.
DROP INDEX grants_by_age;
