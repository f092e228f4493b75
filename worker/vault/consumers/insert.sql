INSERT INTO consumers
    (name, client_id, role, api_key_hash, tenants, connections, users, admins, refresh, impersonate, audit, inherited)
VALUES
    (:name, :client_id, :role, :api_key_hash, :tenants, :connections, :users, :admins, :refresh, :impersonate, :audit,
    :inherited)
