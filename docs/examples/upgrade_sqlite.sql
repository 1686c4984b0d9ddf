ALTER TABLE session ADD COLUMN version INTEGER DEFAULT 1 NOT NULL;
-- RenewalMixin
ALTER TABLE session ADD COLUMN renewal_previous UUID;
