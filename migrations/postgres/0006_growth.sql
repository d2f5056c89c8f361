-- Grants of everybody are listed by id: an index that every login wrote and one listing read is gone.
DROP INDEX grants_by_age;
-- Room in a page for the next version of a row that is rewritten, and dead rows cleared long before a fifth of a table is dead.
ALTER TABLE artefacts SET (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_vacuum_cost_delay = 1);
ALTER TABLE grants SET (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 1);
ALTER TABLE sessions SET (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE chain SET (fillfactor = 10, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);
