jsonb_to_recordset(CAST(:wanted AS jsonb)) AS w(webhook text, kinds jsonb, tenants jsonb)
    ON w.kinds ? e.kind AND (w.tenants IS NULL OR jsonb_typeof(w.tenants) = 'null' OR w.tenants ? e.tenant)
