ALTER TABLE session SET (
    toast.autovacuum_vacuum_scale_factor = 0.02,
    toast.autovacuum_vacuum_cost_limit = 1000
);
