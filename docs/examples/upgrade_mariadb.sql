ALTER TABLE session
    ADD COLUMN version INTEGER DEFAULT 1 NOT NULL,
    MODIFY id UUID NOT NULL,
    MODIFY created BIGINT NOT NULL,
    MODIFY data LONGBLOB NOT NULL;
ALTER TABLE session ALTER COLUMN version DROP DEFAULT;
-- IdleMixin
ALTER TABLE session
    MODIFY idle_expire BIGINT;
-- ConfigIdleMixin
ALTER TABLE session
    MODIFY extension_delay INTEGER,
    MODIFY extension_chance INTEGER,
    MODIFY extension_deadline INTEGER;
-- ConfigAbsoluteMixin
ALTER TABLE session
    MODIFY absolute_expire BIGINT;
-- RenewalMixin
ALTER TABLE session
    ADD COLUMN renewal_previous UUID,
    MODIFY renewal_id UUID,
    MODIFY renewal_next UUID,
    MODIFY renewed BIGINT,
    MODIFY renewal_tried BIGINT;
-- ConfigRenewalMixin
ALTER TABLE session
    MODIFY renewal_try_every INTEGER;
