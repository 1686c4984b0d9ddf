ALTER TABLE session
    MODIFY id UUID NOT NULL,
    MODIFY renewal_id UUID,
    MODIFY rotated_from UUID;
-- RenewalMixin
ALTER TABLE session
    MODIFY renewal_next UUID,
    MODIFY renewal_previous UUID;
