# A migration whose owner, or whose server, is gone: it is given to another role,
# or, without its source, ended.
use strict;
use warnings;

use RehomeTest;
use Test::More;

my $pair = new_pair(role => 1, tcp => 1);
my ($source, $target) = ($pair->source, $pair->target);

# Whoever owned a migration has left: it is given to who has the tables now.
$pair->sql_source(q{CREATE SCHEMA app; CREATE TABLE app.item (id int PRIMARY KEY, v text); INSERT INTO app.item VALUES (1, 'a'); ALTER ROLE rehome_src PASSWORD 'secret'});
$pair->grant_source('app');
$pair->sql_target(qq{
	CREATE ROLE leaver LOGIN IN ROLE rehome_admin; CREATE ROLE stayer LOGIN IN ROLE rehome_admin; CREATE SCHEMA app; GRANT ALL ON SCHEMA app TO leaver, stayer;
	CREATE TABLE app.item (id int PRIMARY KEY, v text); ALTER TABLE app.item OWNER TO leaver;
	CREATE SERVER leaving FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '@{[$source->port]}', dbname 'postgres'); GRANT USAGE ON FOREIGN SERVER leaving TO leaver, stayer;
	CREATE USER MAPPING FOR leaver SERVER leaving OPTIONS (user 'rehome_src', password 'secret');
	CREATE USER MAPPING FOR stayer SERVER leaving OPTIONS (user 'rehome_src', password 'secret');
	CREATE SCHEMA far AUTHORIZATION leaver; SET ROLE leaver; IMPORT FOREIGN SCHEMA app LIMIT TO (item) FROM SERVER leaving INTO far;
	SELECT rehome.create_migration('leaving', 'leaving', 'somebody leaves'); SELECT rehome.add_table('leaving', 'far.item', 'app.item');
	CALL rehome.copy('leaving'); CALL rehome.sync('leaving')});
is((sqlstate_of($target, q{SET ROLE stayer; SELECT rehome.set_owner('leaving', 'stayer')}))[0], '42501', 'nobody takes a migration from its owner');
is((sqlstate_of($target, q{SET ROLE leaver; SELECT rehome.set_owner('leaving', 'stayer')}))[0], '42501', 'nor gives it to somebody whose rights he has not');
my ($sqlstate, undef, undef, $hint) = sqlstate_of($target, q{SELECT rehome.set_owner('leaving', 'stayer')});
is("$sqlstate $hint", '42501 ALTER TABLE app.item OWNER TO stayer;', 'who gets it must own the tables');
$pair->sql_target(q{REASSIGN OWNED BY leaver TO stayer; DROP OWNED BY leaver; DROP ROLE leaver});
$pair->sql_source(q{INSERT INTO app.item VALUES (2, 'b')});
($sqlstate, undef, undef, $hint) = sqlstate_of($target, q{CALL rehome.sync('leaving')});
is("$sqlstate $hint", "42704 SELECT rehome.set_owner('leaving', '<role>');", 'an owner who is gone: what to do is told');
$pair->sql_target(q{SELECT rehome.set_owner('leaving', 'stayer')});
is(finish_psql(start_psql($target, q{CALL rehome.sync('leaving')}, user => 'stayer'))->{sqlstate}, '00000', 'with another one it goes on');
is($pair->sql_target('SELECT count(*) FROM app.item'), '2', 'and nothing is lost');
is($pair->sql_target(q{SELECT message FROM rehome.event WHERE migration = 'leaving' AND kind = 'owner'}), 'owner is stayer', 'which is on record');

# A server that is gone is no obstacle to what does not need it.
$pair->sql_target('DROP SERVER leaving CASCADE');
like((sqlstate_of($target, q{CALL rehome.sync('leaving')}))[1], qr{do not exist any more}, 'a server that is gone: sync says so');
is((sqlstate_of($target, q{CALL rehome.cancel('leaving', local_only => true)}))[0], '00000', 'a server that is gone: given up on this side');
is((sqlstate_of($target, q{SELECT rehome.export_migration('leaving'); SELECT rehome.drop_migration('leaving')}))[0], '00000', 'and forgotten');

# A sequence that stands by itself, in another schema at the source, and gives
# numbers to a table of somebody else, too: who may do what with it is asked before
# writers wait.
{
	sub as_stayer { my ($sql) = @_; return finish_psql(start_psql($target, $sql, user => 'stayer')) }
	$pair->sql_source(q{CREATE SCHEMA numbers; CREATE SEQUENCE numbers.doc; CREATE SCHEMA bill; CREATE TABLE bill.doc (id int PRIMARY KEY DEFAULT nextval('numbers.doc'));
		CREATE TABLE bill.note (id int PRIMARY KEY DEFAULT nextval('numbers.doc')); CREATE TABLE bill.part (id int DEFAULT nextval('numbers.doc'), PRIMARY KEY (id)) PARTITION BY RANGE (id);
		CREATE TABLE bill.part_1 PARTITION OF bill.part FOR VALUES FROM (0) TO (1000); INSERT INTO bill.doc SELECT FROM generate_series(1, 5)});
	$pair->grant_source('bill');
	$pair->sql_target(sprintf q{CREATE SERVER numbers FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '%s', dbname 'postgres'); GRANT USAGE ON FOREIGN SERVER numbers TO stayer;
		CREATE USER MAPPING FOR stayer SERVER numbers OPTIONS (user 'rehome_src', password 'secret')}, $source->port);
	$pair->sql_target(q{CREATE SCHEMA bill; GRANT ALL ON SCHEMA bill TO stayer; CREATE SEQUENCE bill.doc_number; CREATE TABLE bill.doc (id int PRIMARY KEY DEFAULT nextval('bill.doc_number'));
		ALTER TABLE bill.doc OWNER TO stayer; CREATE TABLE bill.part (id int DEFAULT nextval('bill.doc_number'), PRIMARY KEY (id)); ALTER TABLE bill.part OWNER TO stayer;
		CREATE SCHEMA bill_far AUTHORIZATION stayer});
	my $result = as_stayer(q{IMPORT FOREIGN SCHEMA bill LIMIT TO (doc, part) FROM SERVER numbers INTO bill_far; SELECT rehome.create_migration('bill', 'numbers', 'numbers');
		SELECT rehome.add_table('bill', 'bill_far.doc', 'bill.doc'); SELECT rehome.add_table('bill', 'bill_far.part', 'bill.part'); CALL rehome.copy('bill')});
	is($result->{sqlstate}, '00000', 'numbers of a sequence: copied') or diag($result->{stderr});
	my @found = split /\n/, $pair->sql_target(q{SELECT concat_ws(' ', "check", severity, object, hint) FROM rehome.preflight('bill')
		WHERE "check" = 'sequence' OR ("check" = 'privilege' AND severity = 'error') ORDER BY 1});
	is_deeply(\@found, [ 'privilege error bill.doc_number ALTER SEQUENCE bill.doc_number OWNER TO stayer;',
			'privilege error numbers.doc GRANT SELECT, UPDATE ON SEQUENCE numbers.doc TO rehome_src;',
			'privilege error numbers.doc GRANT USAGE ON SCHEMA numbers TO rehome_src;',
			'sequence warning numbers.doc Put these tables into one slice; or set the sequence of one side far ahead, by hand, in the transaction of the cutover.' ],
		'numbers of a sequence: preflight tells what is missing, and who else gets some');
	is($pair->sql_target(q{SELECT detail FROM rehome.preflight('bill') WHERE "check" = 'sequence'}),
		'feeds tables that this slice does not move as well (bill.note): after its cutover both sides give out the same numbers', 'numbers of a sequence: by name');
	# another slice of the migration carries what feeds its own tables, and this one does not know better
	$pair->sql_target(q{CREATE TABLE bill.note (id int PRIMARY KEY DEFAULT nextval('bill.doc_number'), n int); ALTER TABLE bill.note OWNER TO stayer});
	$pair->sql_source(q{ALTER TABLE bill.note ADD n serial});
	$result = as_stayer(q{IMPORT FOREIGN SCHEMA bill LIMIT TO (note) FROM SERVER numbers INTO bill_far; SELECT rehome.add_slice('bill', 'later'); SELECT rehome.add_table('bill', 'bill_far.note', 'bill.note', slice => 'later')});
	is($result->{sqlstate}, '00000', 'numbers of a sequence: another slice') or diag($result->{stderr});
	is($pair->sql_target(q{SELECT string_agg(object || ' ' || left(detail, 20), ', ' ORDER BY object, detail) FROM rehome.preflight('bill') WHERE "check" = 'sequence'}),
		'numbers.doc feeds tables that th, numbers.doc feeds tables that th', 'numbers of a sequence: what another slice carries is not said to be left');
	$result = as_stayer(q{CALL rehome.cutover('bill', 'main')});
	is($result->{sqlstate}, 'RH003', 'numbers of a sequence: a gate of the cutover') or diag($result->{stderr});
	s/.* (?=ALTER|GRANT)// for @found;
	$pair->sql_target($found[0]);
	$pair->sql_source(join ' ', @found[ 1, 2 ]);
	$result = as_stayer(q{CALL rehome.cutover('bill', 'main')});
	is($result->{sqlstate}, '00000', 'numbers of a sequence: with what preflight says it is cut over') or diag($result->{stderr});
	is($pair->sql_target(q{INSERT INTO bill.doc DEFAULT VALUES RETURNING id}), '6', 'numbers of a sequence: they go on');
}

done_testing();
