# Checks and queries on a schedule: the sync worker runs what is due, keeps what
# it finds, and goes on moving rows whatever that is. And a repair of drift that
# the source refuses: only its table pauses.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use RehomeTest;

my $pair   = new_pair(dbname => 'sched', role => 1);
my $schema = q{
	CREATE TABLE item (id int PRIMARY KEY, price numeric(10,2));
	CREATE TABLE other (id int PRIMARY KEY, v int);};
$pair->sql_source($schema . q{
	INSERT INTO item SELECT i, i FROM generate_series(1, 100) AS i;
	INSERT INTO other SELECT i, i FROM generate_series(1, 100) AS i;});
$pair->sql_target($schema . 'CREATE ROLE clerk LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO clerk');
$pair->grant_source('public');
$pair->import_foreign_schema('public', 'src', qw(item other));
sub target { my ($sql) = @_; return $pair->sql_target($sql) }
sub on_target { my ($sql) = @_; return wait_until($pair->target, $sql, undef, 'sched') }
target(q{
	SELECT rehome.create_migration('s', 'src', 'looked after');
	SELECT rehome.add_table('s', 'src.item', 'item');
	SELECT rehome.add_table('s', 'src.other', 'other');
	SELECT rehome.add_check('s', 'total', 'business', 'SELECT sum(price) AS total FROM item', 'SELECT sum(price) AS total FROM item');
	SELECT rehome.add_check('s', 'broken', 'business', 'SELECT 1/count(*) FILTER (WHERE price < 0) AS n FROM item', 'SELECT 1 AS n');
	SELECT rehome.add_check('s', 'elsewhere', 'integration');
	SELECT rehome.add_query('s', 'by hundred', 'SELECT id / 100, count(*) FROM item GROUP BY 1');
	SELECT rehome.add_query('s', 'unscheduled', 'SELECT 1')});

for my $wrong (
	[ q{SELECT rehome.set_schedule('s', '0.5 seconds', '{total,nope}', '{neither}')}, '22023', qr/every is 00:00:00\.5; it is at least a second\..*There is no check nope\..*There is no query neither\./s ],
	[ q{SELECT rehome.set_schedule('s', '1 second', '{elsewhere}')}, '22023', qr/Check elsewhere has no query: another system reports it\./ ],
	[ q{SELECT rehome.set_schedule('nope', '1 second')}, '42704', qr/^$/ ])
{
	my ($state, undef, $detail) = sqlstate_of($pair->target, $wrong->[0], 'sched');
	is($state, $wrong->[1], "refused: $wrong->[0]");
	like($detail, $wrong->[2], 'all that is wrong is told');
}
is(target(q{SELECT rehome.set_schedule('s', '1 second', '{total,broken}', '{by hundred}')}), '3', 'two checks and a query are scheduled');
target(q{CALL rehome.start('s')});
ok($pair->wait_for_state('s', 'syncing'), 'in sync');
my $runs = q{(SELECT count(*) FROM rehome.check_result r JOIN rehome.check_definition d ON d.id = r.check_id WHERE d.name = '%s')};
ok(on_target(sprintf "SELECT $runs >= 3 AND $runs >= 3 AND (SELECT count(*) FROM rehome.query_result) >= 3", 'total', 'broken'), 'the worker runs them, again and again');
is(target(q{SELECT string_agg(concat_ws(' ', "check", status, message), ', ' ORDER BY "check") FROM rehome.check_status WHERE NOT reported}),
	'broken error source: division by zero, total passed', 'what goes wrong is a result');
is(target(q{SELECT string_agg(query || ' ' || status, ', ' ORDER BY query) FROM rehome.query_status}), 'by hundred equal, unscheduled not run', 'what is not scheduled is not run');
# The time a result is from is when it was found, not when it was due.
is(target(q{SELECT bool_and(n <= seconds + 3) FROM (SELECT count(*) AS n, extract(epoch FROM max(at) - min(at)) AS seconds FROM rehome.check_result GROUP BY check_id) AS c}), 't',
	'nothing is run more often than it is due');
is(target(q{SELECT error IS NULL AND NOT paused FROM rehome.status WHERE migration = 's'}), 't', 'none of it is an error of the slice');
$pair->sql_source('UPDATE item SET price = price + 1');
ok(on_target('SELECT sum(price) = 5150 FROM item'), 'and rows go on moving');
is(target(q{SELECT bool_and(status <> 'failed') FROM rehome.check_result}), 't', 'both sides were always asked at one snapshot');

# A source that is written to all the time is not one that the worker is behind of.
my $writer = start_psql($pair->source, q{
	DO $$ BEGIN
		WHILE NOT EXISTS (SELECT FROM item WHERE id = 0) LOOP
			UPDATE other SET v = v + 1 WHERE id = 1;
			COMMIT;
			PERFORM pg_sleep(0.01);
		END LOOP;
	END $$}, dbname => 'sched');
ok(on_target('SELECT v > 3 FROM other WHERE id = 1'), 'batches bring something, one after the other');
my $written = target(sprintf "SELECT $runs", 'total');
ok(on_target(sprintf "SELECT $runs >= $written + 2", 'total'), 'what is due is run all the same');
$pair->sql_source('INSERT INTO item VALUES (0, 0)');
finish_psql($writer);

# After cutover it goes on.
target(q{SELECT rehome.set_schedule('s', NULL, '{broken}')});
target(q{CALL rehome.cutover('s')});
target(q{UPDATE item SET price = price + 1});
my $before = target(sprintf "SELECT $runs", 'total');
ok(on_target(sprintf "SELECT $runs >= $before + 2", 'total'), 'checks are run after the cutover');
is(target(q{SELECT "check", status FROM rehome.check_status WHERE "check" = 'total'}), 'total|passed', 'and pass');
target(q{CALL rehome.rollback('s')});
is(target(q{SELECT rehome.set_schedule('s', NULL)}), '4', 'no schedule any more, for all that can be run');
is(target(q{SELECT count(*) FROM rehome.check_definition WHERE every IS NOT NULL OR due_at IS NOT NULL}), '0', 'of any check');

# A repair that the source refuses.
my $change = target(q{SELECT format('rehome_source.change_%s_%s', m.token, t.id) FROM rehome.migration m, rehome.table_map t WHERE t.target = 'item'::regclass});
$pair->sql_source("ALTER TABLE $change ADD CONSTRAINT not_seven CHECK (key1 <> 7) NOT VALID");
target(q{SELECT rehome.set_drift_policy('s', 'repair')});
$pair->target->safe_psql('sched', 'UPDATE item SET price = 0 WHERE id = 7; UPDATE other SET v = 0 WHERE id = 8', extra_params => [ '-U', 'clerk' ]);
ok(on_target(q{SELECT paused FROM rehome.table_map WHERE target = 'item'::regclass}), 'the table is paused');
like(target(q{SELECT reason FROM rehome.table_map WHERE target = 'item'::regclass}), qr/^its drift cannot be repaired: the source refuses the keys: .*not_seven/, 'and says why');
ok(on_target('SELECT v = 8 FROM other WHERE id = 8'), 'the other one is repaired');
$pair->sql_source('UPDATE other SET v = 99 WHERE id = 9');
ok(on_target('SELECT v = 99 FROM other WHERE id = 9'), 'and goes on');
$pair->sql_source("ALTER TABLE $change DROP CONSTRAINT not_seven");
target(q{SELECT rehome.resume_table('s', 'item')});
ok(on_target('SELECT price = 9 FROM item WHERE id = 7'), 'resumed, it is repaired');
is(target(q{SELECT bool_and(ok) FROM rehome.verify('s', mode => 'rows')}), 't', 'and all is equal');

done_testing();
