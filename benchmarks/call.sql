-- One call as PostgreSQL has to see it: placed, answered, ended, each under the locks that the product takes, with the
-- rows that it writes. The least statements that do it; each client has a caller and a callee of its own.
\set caller :first + 2 * :client_id
\set callee :first + 2 * :client_id + 1
begin;
select user_id, multi_device, max_incoming, max_outgoing from devices_line where user_id in (:caller, :callee) order by user_id for no key update;
select user_id, dir, count(*) from calls_leg where user_id in (:caller, :callee) and state in ('ringing', 'joined') group by user_id, dir;
select id, online_until from devices_device where user_id = :callee and signed_out_at is null;
insert into calls_call (id, v, kind, state, host_id, placed_at, ended_by, due_at) values (gen_random_uuid(), 1, 'audio', 'ringing', :caller, now(), '', now() + interval '47 s') returning id as call \gset
insert into calls_leg (call_id, user_id, username, name, dir, state, multi, ring_until, alerted, device_id, device_name, page, epoch, online, held, mic, cam) values (:call, :caller, 'bench', 'bench', 'out', 'joined', true, null, false, (select id from devices_device where user_id = :caller), 'bench', gen_random_uuid(), 1, true, false, true, false), (:call, :callee, 'bench', 'bench', 'in', 'ringing', true, now() + interval '45 s', false, null, '', null, 0, true, false, true, false);
insert into calls_entry (call_id, v, at, command) values (:call, 1, now(), jsonb_build_object('type', 'Invite', 'call', :call::uuid, 'by', jsonb_build_object('key', :caller::text, 'device', :call::uuid, 'name', 'bench', 'page', :call::uuid, 'in_call', null), 'user', 'caller', 'name', 'Caller', 'multi', true, 'active', 0, 'limit', 1, 'kind', 'audio', 'ring_s', 45, 'data', null, 'callees', jsonb_build_array(jsonb_build_object('key', :callee::text, 'user', 'callee', 'name', 'Callee', 'multi', true, 'ring_on', null, 'reachable', true, 'online', true, 'active', 0, 'limit', 1))));
commit;
begin;
select c.v, c.state, l.id, l.state, l.user_id from calls_call c join calls_leg l on l.call_id = c.id where c.id = :call for no key update of c;
update calls_call set v = 2, state = 'active', answered_at = now(), due_at = now() + interval '8 h' where id = :call;
update calls_leg set state = 'joined', alerted = true, epoch = 1, device_name = 'bench', page = gen_random_uuid(), device_id = (select id from devices_device where user_id = :callee) where call_id = :call and user_id = :callee;
insert into calls_entry (call_id, v, at, command) values (:call, 2, now(), jsonb_build_object('type', 'Answer', 'by', jsonb_build_object('key', :callee::text, 'device', :call::uuid, 'name', 'bench', 'page', :call::uuid, 'in_call', null), 'data', null));
commit;
begin;
select c.v, c.state, l.id, l.state, l.user_id from calls_call c join calls_leg l on l.call_id = c.id where c.id = :call for no key update of c;
update calls_call set v = 3, state = 'ended', reason = 'completed', ended_at = now(), ended_by = :caller::text, due_at = null where id = :call;
update calls_leg set state = 'left' where call_id = :call;
insert into calls_entry (call_id, v, at, command) values (:call, 3, now(), jsonb_build_object('type', 'Hangup', 'by', jsonb_build_object('key', :caller::text, 'device', :call::uuid, 'name', 'bench', 'page', :call::uuid, 'in_call', null), 'data', null));
commit;
