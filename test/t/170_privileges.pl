# Nobody gets a right through pg_rehome that he does not have without it: roles,
# owners who are no superusers, what rules, indexes and triggers may do, and
# objects that somebody has planted where a careless search_path would find them.
use strict;
use warnings;

use RehomeTest;
use Test::More;

my $pair = new_pair(
	role        => 1,
	tcp         => 1,
	target_conf => "rehome.naptime = 50ms\nrehome.retry_max = 300ms\nrehome.copy_workers = 1");
my ($source, $target) = ($pair->source, $pair->target);
$pair->sql_source(q{ALTER ROLE rehome_src PASSWORD 'secret'});
$pair->sql_target(q{ALTER USER MAPPING FOR CURRENT_USER SERVER src OPTIONS (SET password 'secret')});

sub as_role
{
	my ($role, $sql, %option) = @_;
	return finish_psql(start_psql($target, $sql, user => $role, %option));
}

$pair->sql_target(q{
	CREATE ROLE a_reader LOGIN IN ROLE rehome_reader;
	CREATE ROLE an_operator LOGIN IN ROLE rehome_operator;
	CREATE ROLE an_admin LOGIN IN ROLE rehome_admin;
	CREATE ROLE nobody LOGIN;
	CREATE ROLE boss LOGIN IN ROLE rehome_admin;
});

# What each role may call.  The migration does not exist: who may call gets that
# said, who may not is refused before.
my %call = (
	reader => {
		blanked         => q{SELECT rehome.blanked('{}', '{a}')},
		plan             => q{SELECT * FROM rehome.plan('nope')},
		rules_hash       => q{SELECT rehome.rules_hash(0)},
		rule_html        => q{SELECT rehome.rule_html('<b>')},
		state_transition => q{SELECT * FROM rehome.state_transition},
		database_identity => q{SELECT rehome.database_identity()},
		mapping_document => q{SELECT * FROM rehome.mapping_document('nope')},
		mapping_document_markdown => q{SELECT rehome.mapping_document_markdown('nope')},
		export_migration => q{SELECT rehome.export_migration('nope')},
		definition_hash  => q{SELECT rehome.definition_hash('nope')},
		scorecard        => q{SELECT * FROM rehome.scorecard('nope')},
		(map { $_ => "SELECT * FROM rehome.$_" } qw(status progress event discrepancy quarantine drift)),
	},
	operator => {
		preflight => q{SELECT * FROM rehome.preflight('nope')},
		pause     => q{SELECT rehome.pause('nope')},
		resume    => q{SELECT rehome.resume('nope')},
		verify    => q{SELECT * FROM rehome.verify('nope')},
		retry     => q{SELECT * FROM rehome.retry('nope')},
		lint_mapping    => q{SELECT * FROM rehome.lint_mapping('nope')},
		lineage         => q{SELECT * FROM rehome.lineage('pg_class', '{}')},
		suggest_mapping => q{SELECT * FROM rehome.suggest_mapping('nope', 'a', 'b')},
		pause_table     => q{SELECT rehome.pause_table('nope', 'pg_class')},
		resume_table    => q{SELECT rehome.resume_table('nope', 'pg_class')},
		run_checks      => q{SELECT * FROM rehome.run_checks('nope')},
		report_check    => q{SELECT rehome.report_check('nope', 'c', true)},
		run_queries     => q{SELECT * FROM rehome.run_queries('nope')},
		structure       => q{SELECT * FROM rehome.structure('nope')},
		refresh_derived => q{SELECT * FROM rehome.refresh_derived('nope')},
		classify        => q{SELECT rehome.classify('nope', '{1}', 'sync lag')},
		(map { $_ => "CALL rehome.$_('nope')" } qw(start copy sync verify_tables recover)),
	},
	admin => {
		create_migration => q{SELECT rehome.create_migration('nope', 'no_server', 'reason')},
		add_slice        => q{SELECT rehome.add_slice('nope', 's')},
		add_table        => q{SELECT rehome.add_table('nope', 'pg_class', 'pg_class')},
		add_schema       => q{SELECT rehome.add_schema('nope', 'a', 'b')},
		map_column       => q{SELECT rehome.map_column('nope', 'pg_class', 'oid', '1')},
		add_rule         => q{SELECT rehome.add_rule('nope', 'pg_class', 'oid', 'copy')},
		set_table_rule   => q{SELECT rehome.set_table_rule('nope', 'pg_class')},
		recopy           => q{SELECT rehome.recopy('nope', 'pg_class')},
		accept_quarantine => q{SELECT rehome.accept_quarantine('nope', 'reason')},
		import_migration  => q{SELECT rehome.import_migration('{}')},
		set_drift_policy  => q{SELECT rehome.set_drift_policy('nope', 'record')},
		repair_drift      => q{SELECT rehome.repair_drift('nope')},
		accept_drift      => q{SELECT rehome.accept_drift('nope')},
		resolve           => q{SELECT rehome.resolve('nope', '{1}', 'decision')},
		accept            => q{SELECT rehome.accept('nope', 'pg_class', 'reason')},
		redact            => q{SELECT rehome.redact('nope', 'pg_class', '{oid}')},
		unredact          => q{SELECT rehome.unredact('nope', 'pg_class', '{oid}')},
		revoke_acceptance => q{SELECT rehome.revoke_acceptance('nope', 1)},
		land_table        => q{SELECT rehome.land_table('nope', 'pg_class', 'l')},
		add_derived       => q{SELECT rehome.add_derived('nope', 'd', 'pg_class', 'SELECT 1')},
		drop_derived      => q{SELECT rehome.drop_derived('nope', 'd')},
		add_identity      => q{SELECT rehome.add_identity('nope', 'e', 'pg_class', 'pg_class', 'pg_class', 'true')},
		add_identity_reference => q{SELECT rehome.add_identity_reference('nope', 'e', 'pg_class', 'c', 'l')},
		add_check         => q{SELECT rehome.add_check('nope', 'c', 'SELECT 1', 'SELECT 1')},
		drop_check        => q{SELECT rehome.drop_check('nope', 'c')},
		add_query         => q{SELECT rehome.add_query('nope', 'q', 'SELECT 1')},
		drop_query        => q{SELECT rehome.drop_query('nope', 'q')},
		suggest_checks    => q{SELECT * FROM rehome.suggest_checks('nope')},
		adopt_checks      => q{SELECT rehome.adopt_checks('nope')},
		set_schedule      => q{SELECT rehome.set_schedule('nope', '1 hour')},
		set_criterion     => q{SELECT rehome.set_criterion('nope', 'correctness', '=', 100)},
		drop_criterion    => q{SELECT rehome.drop_criterion('nope', 'correctness')},
		set_owner        => q{SELECT rehome.set_owner('nope', 'nobody')},
		drop_migration   => q{SELECT rehome.drop_migration('nope')},
		(map { $_ => "CALL rehome.$_('nope')" } qw(cutover rollback complete cancel)),
	});
my @ranks = qw(reader operator admin);
my %rank_of = (nobody => -1, a_reader => 0, an_operator => 1, an_admin => 2);
for my $role (sort keys %rank_of)
{
	my (@refused, @allowed);
	for my $rank (0 .. $#ranks)
	{
		my $calls = $call{ $ranks[$rank] };
		for my $name (sort keys %$calls)
		{
			my $sqlstate = as_role($role, $calls->{$name})->{sqlstate};
			push @{ $sqlstate eq '42501' ? \@refused : \@allowed }, $name;
		}
	}
	my @should = map { sort keys %{ $call{ $ranks[$_] } } } grep { $_ <= $rank_of{$role} } 0 .. $#ranks;
	is_deeply([ sort @allowed ], [ sort @should ], "$role may call what his role is for, and is refused (42501) all else");
}
{
	my %known = map { $_ => 1 } map { keys %$_ } values %call;
	my @internal = grep { !$known{$_} } split /\n/, $pair->sql_target(q{SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'rehome'::regnamespace AND proname NOT LIKE 'rule\_%' ORDER BY 1});
	is("@internal", 'capture guard note_input record_drift state_transitions survivor write_back', 'every function is called above, but those behind triggers and a view');
	is($pair->sql_target(q{SELECT string_agg(p.proname, ' ' ORDER BY p.proname) FROM pg_proc p WHERE pronamespace = 'rehome'::regnamespace AND has_function_privilege('nobody', p.oid, 'EXECUTE')}),
		'capture guard record_drift write_back', 'nothing of schema rehome can be called by everybody but what partitions get from their table');
	is(as_role('nobody', q{CREATE TEMP TABLE t (i int); CREATE TRIGGER t BEFORE INSERT ON t EXECUTE FUNCTION rehome.guard('m', 1)})->{sqlstate}, '42501', 'and nobody puts that on tables of his own');
	is($pair->sql_target(q{SELECT string_agg(c.oid::regclass || ' ' || r, ', ') FROM pg_class c, unnest(ARRAY['a_reader', 'an_operator', 'an_admin']) r
			WHERE c.relnamespace IN ('rehome'::regnamespace, 'rehome_change'::regnamespace) AND c.relkind IN ('r', 'v', 'p') AND has_table_privilege(r, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER, REFERENCES')}),
		'', 'no role writes to the catalog but through the functions');
	is($pair->sql_target(q{SELECT string_agg(r, ', ') FROM unnest(ARRAY['nobody', 'a_reader', 'an_operator', 'an_admin']) r WHERE has_schema_privilege(r, 'rehome_change', 'USAGE, CREATE') OR has_schema_privilege(r, 'rehome', 'CREATE')}),
		'', 'nor into its schemas');
	for my $sql (q{UPDATE rehome.slice SET paused = false}, q{DELETE FROM rehome.event}, q{INSERT INTO rehome.event (kind, message) VALUES ('x', 'y')})
	{
		is(as_role('an_admin', $sql)->{sqlstate}, '42501', "an admin is refused: $sql");
	}
}

# The source's tables, and an owner of the target's who is no superuser.  Each
# of his functions refuses to run as anybody else.
$pair->sql_source(q{
	CREATE SCHEMA app;
	CREATE TABLE app.guarded (id int PRIMARY KEY, val text, other text);
	CREATE TABLE app.triggered (id int PRIMARY KEY, val text);
	INSERT INTO app.guarded SELECT i, 'v' || i, 'o' FROM generate_series(1, 50) i;
	INSERT INTO app.triggered SELECT i, 'v' || i FROM generate_series(1, 50) i;
	CREATE ROLE clerk LOGIN;
	GRANT USAGE ON SCHEMA app TO clerk;
	GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA app TO clerk;
});
$pair->grant_source('app');
my $port = $source->port;
$pair->sql_target(qq{
	CREATE SCHEMA app AUTHORIZATION boss;
	CREATE TABLE public.secret AS SELECT 'xyzzy'::text AS word;
	REVOKE ALL ON public.secret FROM PUBLIC;
	CREATE SERVER tcp FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '$port', dbname 'postgres');
	CREATE SERVER forbidden FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '$port', dbname 'postgres');
	GRANT USAGE ON FOREIGN SERVER tcp TO boss;
	CREATE ROLE clerk LOGIN;
	GRANT USAGE ON SCHEMA app TO clerk;
});
my $make = as_role('boss', q{
	CREATE FUNCTION app.assert_boss() RETURNS boolean STABLE LANGUAGE plpgsql AS
	$$BEGIN
		IF current_user <> 'boss' THEN RAISE EXCEPTION USING ERRCODE = 'ZZ001', MESSAGE = 'running as ' || current_user; END IF;
		RETURN true;
	END$$;
	CREATE FUNCTION app.checked(v text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS
	$$BEGIN PERFORM app.assert_boss(); RETURN v; END$$;
	CREATE FUNCTION app.is_checked(v text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS
	$$BEGIN RETURN app.assert_boss(); END$$;
	CREATE FUNCTION app.whoami(int) RETURNS text STABLE LANGUAGE sql AS 'SELECT current_user::text';
	CREATE FUNCTION app.folded() RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM app.assert_boss(); RETURN current_user; END';
	CREATE FUNCTION app.trigger_checked() RETURNS trigger LANGUAGE plpgsql AS
	$$BEGIN PERFORM app.assert_boss(); RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END; END$$;
	CREATE DOMAIN app.checked_text AS text CHECK (app.is_checked(VALUE));
	CREATE TABLE app.guarded (
		id int PRIMARY KEY,
		val text CHECK (app.is_checked(val)),
		other app.checked_text,
		who text,
		folded text,
		preset text DEFAULT app.checked('preset'),
		made text GENERATED ALWAYS AS (app.checked(val)) STORED);
	CREATE INDEX ON app.guarded (app.checked(val)) WHERE app.is_checked(other);
	CREATE UNIQUE INDEX ON app.guarded (id, app.checked(val));
	CREATE STATISTICS app.guarded_stats ON app.checked(val), app.checked(who) FROM app.guarded;
	CREATE TABLE app.triggered (id int PRIMARY KEY, val text);
	CREATE TRIGGER checked BEFORE INSERT OR UPDATE OR DELETE ON app.triggered FOR EACH ROW EXECUTE FUNCTION app.trigger_checked();
	ALTER TABLE app.triggered ENABLE ALWAYS TRIGGER checked;
	ALTER TABLE app.guarded ENABLE ROW LEVEL SECURITY;
	CREATE POLICY p ON app.guarded USING (app.assert_boss());
	GRANT SELECT, INSERT, UPDATE, DELETE ON app.triggered TO clerk;
});
is($make->{sqlstate}, '00000', 'the owner makes his tables') or diag($make->{stderr});

# With a password, and only with one.
is(as_role('boss', q{SELECT rehome.create_migration('m', 'forbidden', 'x')})->{sqlstate}, '42501', 'a server that the owner may not use is refused');
isnt(as_role('boss', q{SELECT rehome.create_migration('m', 'tcp', 'x')})->{sqlstate}, '00000', 'without a user mapping there is no migration');
$pair->sql_target(q{CREATE USER MAPPING FOR boss SERVER tcp OPTIONS (user 'rehome_src')});
as_role('boss', q{SELECT rehome.create_migration('m', 'tcp', 'a test of privileges')});
is(as_role('boss', q{SELECT rehome.add_schema('m', 'app', 'app')})->{sqlstate}, '2F003', 'without a password the owner is refused');
my $superuser = $pair->sql_source('SELECT current_user');
$pair->sql_target(qq{ALTER USER MAPPING FOR boss SERVER tcp OPTIONS (SET user '$superuser', ADD password 'ignored')});
is(as_role('boss', q{SELECT rehome.add_schema('m', 'app', 'app')})->{sqlstate}, '2F003', 'and with one that the source does not ask for');
$pair->sql_target(q{ALTER USER MAPPING FOR boss SERVER tcp OPTIONS (SET user 'rehome_src', SET password 'wrong')});
is(as_role('boss', q{SELECT rehome.add_schema('m', 'app', 'app')})->{sqlstate}, '08001', 'and with a wrong one');
$pair->sql_target(q{ALTER USER MAPPING FOR boss SERVER tcp OPTIONS (SET password 'secret')});
{
	my $result = as_role('boss', q{SELECT rehome.add_schema('m', 'app', 'app')});
	is($result->{sqlstate}, '00000', 'with the right one he defines his migration') or diag($result->{stderr});
}

# Rules run with the owner's rights.
{
	my $result = as_role('boss', q{
		SELECT rehome.map_column('m', 'app.guarded', 'who', 'app.whoami(id)');
		SELECT rehome.map_column('m', 'app.guarded', 'folded', 'app.folded()');
		SELECT rehome.map_column('m', 'app.guarded', 'val', 'app.checked(val)', inverse => 'app.checked(val)');
	});
	is($result->{sqlstate}, '00000', 'rules that call his functions') or diag($result->{stderr});
}
for my $role ('an_admin', 'nobody')
{
	for my $sql (
		q{SELECT rehome.map_column('m', 'app.guarded', 'who', '1')},
		q{SELECT rehome.add_slice('m', 'mine')},
		q{SELECT rehome.add_table('m', 'app.triggered', 'app.triggered')},
		q{SELECT rehome.add_schema('m', 'app', 'app')},
		q{SELECT rehome.drop_migration('m')})
	{
		is(as_role($role, $sql)->{sqlstate}, '42501', "$role, who is not its owner, is refused: $sql");
	}
}
$pair->sql_target(q{GRANT boss TO an_admin});
is(as_role('an_admin', q{SELECT rehome.add_slice('m', 'his')})->{sqlstate}, '00000', 'a member of the owner is not');
$pair->sql_target(q{REVOKE boss FROM an_admin});
is(as_role('boss', q{SELECT count(*) FROM rehome.preflight('m') WHERE severity = 'error'})->{sqlstate}, '00000', 'the owner looks at preflight');
is($pair->sql_target(q{SELECT string_agg(detail, '; ') FROM rehome.preflight('m') WHERE severity = 'error'}), '', 'so does a superuser; nothing stands in the way')
  or BAIL_OUT('nothing to go on with');
{
	my $result = as_role('an_operator', q{CALL rehome.copy('m', 'main')});
	is($result->{sqlstate}, '00000', 'an operator copies it: every function ran as the owner') or diag($result->{stderr});
	is($pair->sql_target(q{SELECT count(*) || ' ' || string_agg(DISTINCT who || ' ' || folded || ' ' || preset, ',') FROM app.guarded}), '50 boss boss preset', 'rules, constants and defaults, too');

	$result = finish_psql(start_psql($source, q{
		UPDATE app.guarded SET val = val || '!' WHERE id <= 10;
		DELETE FROM app.guarded WHERE id = 50;
		INSERT INTO app.guarded VALUES (51, 'new', 'o');
		UPDATE app.triggered SET val = val || '!' WHERE id <= 10;
		DELETE FROM app.triggered WHERE id = 50;
		INSERT INTO app.triggered VALUES (51, 'new');
	}, user => 'clerk'));
	is($result->{sqlstate}, '00000', 'a role with rights on the tables only writes at the source') or diag($result->{stderr});
	$result = as_role('an_operator', q{CALL rehome.sync('m', 'main')});
	is($result->{sqlstate}, '00000', 'sync: every function ran as the owner') or diag($result->{stderr});
	$result = as_role('an_operator', q{SELECT bool_and(ok) FROM rehome.verify('m', 'main', mode => 'rows')});
	is("$result->{sqlstate} $result->{stdout}", "00000 t\n", 'verify: every function ran as the owner') or diag($result->{stderr});
	is($pair->sql_target(q{SELECT string_agg(DISTINCT who || ' ' || folded, ',') FROM app.guarded}), 'boss boss', 'sync: rules and constants, too');
	is(as_role('an_operator', q{CALL rehome.cutover('m', 'main')})->{sqlstate}, '42501', 'an operator does not cut over');
	$result = as_role('boss', q{CALL rehome.cutover('m', 'main')});
	is($result->{sqlstate}, '00000', 'the owner does') or diag($result->{stderr});

	# writes after the cutover, by a role that has rights on the table only
	$pair->sql_target(q{ALTER TABLE app.triggered DISABLE TRIGGER checked});
	$result = as_role('clerk', q{UPDATE app.triggered SET val = 'after' WHERE id = 1; DELETE FROM app.triggered WHERE id = 2; INSERT INTO app.triggered VALUES (60, 'after')});
	is($result->{sqlstate}, '00000', 'a role with rights on the tables only writes at the target') or diag($result->{stderr});
	is(as_role('clerk', q{SELECT * FROM rehome_change.change_1})->{sqlstate}, '42501', 'and cannot read the change tables');
	$result = as_role('boss', q{UPDATE app.guarded SET val = 'after' WHERE id = 1});
	is($result->{sqlstate}, '00000', 'so does the owner') or diag($result->{stderr});
	$result = as_role('an_operator', q{CALL rehome.sync('m', 'main')});
	is($result->{sqlstate}, '00000', 'the way back: every function ran as the owner') or diag($result->{stderr});
	is($pair->sql_source(q{SELECT val FROM app.guarded WHERE id = 1}), 'after', 'the way back: it has arrived');
	is($pair->sql_source(q{SELECT string_agg(val, ',' ORDER BY id) FROM app.triggered WHERE id IN (1, 2, 60)}), 'after,after', 'the way back: the other, too');
	$result = as_role('boss', q{CALL rehome.complete('m', 'main'); CALL rehome.cancel('m', 'his')});
	is($result->{sqlstate}, '00000', 'the owner completes it') or diag($result->{stderr});
}

# What a rule must not do.
$pair->sql_source(q{CREATE SCHEMA evil; CREATE TABLE evil.t (id int PRIMARY KEY, val text); INSERT INTO evil.t VALUES (1, 'x')});
$pair->grant_source('evil');
as_role('boss', q{
	CREATE FUNCTION app.read_secret(int) RETURNS text STABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT word FROM public.secret); END';
	CREATE FUNCTION app.set_role(int) RETURNS text STABLE LANGUAGE plpgsql AS $$BEGIN PERFORM set_config('role', 'postgres', false); RETURN current_user; END$$;
	CREATE FUNCTION app.reset_role(int) RETURNS text STABLE LANGUAGE plpgsql AS $$BEGIN PERFORM set_config('role', 'none', false); RETURN (SELECT word FROM public.secret); END$$;
	CREATE FUNCTION app.set_session(int) RETURNS text STABLE LANGUAGE plpgsql AS $$BEGIN PERFORM set_config('session_authorization', 'postgres', false); RETURN (SELECT word FROM public.secret); END$$;
	CREATE FUNCTION app.folded_secret() RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT word FROM public.secret); END';
	CREATE TABLE app.t (id int PRIMARY KEY, val text);
});
for my $rule ('app.read_secret(id)', 'app.set_role(id)', 'app.reset_role(id)', 'app.set_session(id)', 'app.folded_secret()')
{
	my $name = $rule =~ s/\W+/_/gr;
	$pair->sql_target(q{GRANT CREATE ON DATABASE postgres TO boss});
	my $define = as_role('boss', qq{
		SELECT rehome.create_migration('$name', 'tcp', 'evil');
		CREATE SCHEMA IF NOT EXISTS evil_$name;
		IMPORT FOREIGN SCHEMA evil FROM SERVER tcp INTO evil_$name;
		SELECT rehome.add_table('$name', 'evil_$name.t', 'app.t');
		SELECT rehome.map_column('$name', 'app.t', 'val', '$rule');
	});
	# refused when it is defined, or when it runs; called by a superuser
	my ($sqlstate, $message) = ($define->{sqlstate}, $define->{stderr});
	($sqlstate, $message) = sqlstate_of($target, qq{SET rehome.copy_workers = 0; CALL rehome.copy('$name')}) if $sqlstate eq '00000';
	is($sqlstate, '42501', "a rule that calls $rule is stopped") or diag($message);
	is($pair->sql_target(q{SELECT count(*) FROM app.t}), 0, "a rule that calls $rule has brought nothing");
	$target->psql('postgres', "CALL rehome.cancel('$name'); SELECT rehome.drop_migration('$name')");
}

# What a rule's functions set ends with them: the catalog work that follows is
# done with the rights of the extension's owner.
{
	my $define = as_role('boss', q{
		CREATE SCHEMA bent;
		CREATE TABLE app.caught (who name);
		CREATE FUNCTION bent.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS
		$$BEGIN INSERT INTO app.caught VALUES (current_user); RETURN pg_catalog.clock_timestamp(); END$$;
		CREATE FUNCTION bent.lower(text) RETURNS text LANGUAGE plpgsql AS
		$$BEGIN INSERT INTO app.caught VALUES (current_user); RETURN $1; END$$;
		CREATE FUNCTION app.bend(v text) RETURNS text STABLE LANGUAGE plpgsql AS
		$$BEGIN PERFORM set_config('search_path', 'bent, pg_catalog', false), set_config('lock_timeout', '17s', false); RETURN v; END$$;
		SELECT rehome.create_migration('bender', 'tcp', 'evil');
		SELECT rehome.add_table('bender', 'evil_app_read_secret_id_.t', 'app.t', columns => '{"val": "app.bend(val)"}');
		SELECT rehome.set_table_rule('bender', 'app.t', on_error => 'quarantine');
	});
	is($define->{sqlstate}, '00000', 'a rule that changes settings') or diag($define->{stderr});
	my $result = finish_psql(start_psql($target, q{
		SET rehome.copy_workers = 0;
		SET search_path = pg_catalog;
		CALL rehome.copy('bender');
		SHOW search_path;
		SHOW lock_timeout;
	}));
	is("$result->{sqlstate} $result->{stdout}", "00000 pg_catalog\n0\n", 'who calls has his own settings afterwards') or diag($result->{stderr});
	$pair->sql_source(q{UPDATE evil.t SET val = 'y'});
	$result = finish_psql(start_psql($target, q{SET search_path = pg_catalog; CALL rehome.sync('bender'); SELECT count(*) FROM rehome.verify('bender') WHERE NOT ok; CALL rehome.cutover('bender'); SHOW search_path}));
	is("$result->{sqlstate} $result->{stdout}", "00000 0\npg_catalog\n", 'after sync, verify and cutover, too') or diag($result->{stderr});
	is($pair->sql_target('SELECT val FROM app.t'), 'y', 'the rows have come');
	is($pair->sql_target('SELECT count(*) FROM app.caught'), 0, 'nothing of ours was looked up where the rule had pointed');
	$pair->sql_target(q{CALL rehome.rollback('bender')});
	$pair->sql_target(q{CALL rehome.cancel('bender')});
	as_role('boss', q{SELECT rehome.drop_migration('bender')});
}

# To read an expression is to run code as well: a literal's type may check it.
{
	my $define = as_role('boss', q{
		CREATE TABLE app.parsed (who name);
		CREATE FUNCTION app.note_parse(int) RETURNS boolean LANGUAGE plpgsql AS
		$$BEGIN INSERT INTO app.parsed VALUES (current_user); RETURN true; END$$;
		CREATE DOMAIN app.noted AS int CHECK (app.note_parse(VALUE));
		CREATE TABLE app.keyed (id int PRIMARY KEY, val text);
		SELECT rehome.create_migration('parsed', 'tcp', 'evil');
		SELECT rehome.add_table('parsed', 'evil_app_read_secret_id_.t', 'app.keyed');
		SELECT rehome.map_column('parsed', 'app.keyed', 'id', $$CASE WHEN '{1}'::app.noted[] IS NOT NULL THEN id END$$);
	});
	is($define->{sqlstate}, '00000', 'a key with a literal that is checked') or diag($define->{stderr});
	for my $sql (q{SELECT * FROM rehome.plan('parsed')}, q{SELECT * FROM rehome.preflight('parsed')}, q{SELECT * FROM rehome.lint_mapping('parsed')},
		q{SELECT * FROM rehome.mapping_document('parsed')}, q{SET rehome.copy_workers = 0; CALL rehome.copy('parsed')}, q{CALL rehome.sync('parsed')},
		q{SELECT * FROM rehome.verify('parsed')}, q{SELECT * FROM rehome.lineage('app.keyed', '{"id": 1}')}, q{SELECT rehome.export_migration('parsed')})
	{
		my ($sqlstate, $message) = sqlstate_of($target, $sql);
		is($sqlstate, '00000', "a superuser calls: $sql") or diag($message);
	}
	is($pair->sql_target(q{SELECT string_agg(DISTINCT who, ',') FROM app.parsed}), 'boss', 'wherever it is read, it is read as the owner');
	$pair->sql_target(q{CALL rehome.cancel('parsed')});
	as_role('boss', q{SELECT rehome.drop_migration('parsed')});
}

# Nobody has a migration's owner read what he likes.
{
	$pair->sql_target(q{CREATE SCHEMA op AUTHORIZATION an_operator});
	my $make = as_role('an_operator', q{
		CREATE TABLE op.ran (who name);
		CREATE FUNCTION op.run() RETURNS text LANGUAGE plpgsql AS $$BEGIN INSERT INTO op.ran VALUES (current_user); RETURN '1'; END$$;
		CREATE VIEW op.bait AS SELECT op.run() AS x;
		CREATE TABLE op.t (x int);
	});
	is($make->{sqlstate}, '00000', 'an operator lays a bait') or diag($make->{stderr});
	$pair->sql_target(q{SELECT rehome.create_migration('bait', NULL, 'a superuser has it')});
	my $asked = as_role('an_operator', q{SELECT * FROM rehome.suggest_mapping('bait', 'op.bait', 'op.t')});
	is($asked->{sqlstate}, '42501', 'a sample is for the owner');
	like($asked->{stderr}, qr/sample => 0/, 'and the hint says what is left');
	is(as_role('an_operator', q{SELECT * FROM rehome.suggest_mapping('bait', 'op.bait', 'op.t', sample => 0)})->{sqlstate}, '00000', 'which is for him, too');
	is($pair->sql_target('SELECT count(*) FROM op.ran'), 0, 'nothing of his ran as anybody else');
	$pair->sql_target(q{SELECT rehome.drop_migration('bait')});
}

# A source that is a view of the same database: its functions run as the owner.
{
	my $result = as_role('boss', q{
		CREATE TABLE app.local_data (id int PRIMARY KEY, val text);
		INSERT INTO app.local_data SELECT i, 'l' FROM generate_series(1, 5) i;
		CREATE VIEW app.local_view AS SELECT id, app.checked(val) AS val FROM app.local_data WHERE app.assert_boss();
		CREATE TABLE app.local_target (id int PRIMARY KEY, val text);
		SELECT rehome.create_migration('here', NULL, 'a test of privileges');
		SELECT rehome.add_table('here', 'app.local_view', 'app.local_target', filter => $$app.is_checked(val)$$);
	});
	is($result->{sqlstate}, '00000', 'a view as the source') or diag($result->{stderr});
	for my $sql (q{SELECT * FROM rehome.preflight('here')}, q{SELECT * FROM rehome.plan('here')}, q{CALL rehome.copy('here')},
		map { "SELECT * FROM rehome.verify('here', mode => '$_')" } qw(count hash rows))
	{
		my ($sqlstate, $message) = sqlstate_of($target, $sql);
		is($sqlstate, '00000', "a superuser calls, the view's functions run as the migration's owner: $sql") or diag($message);
	}
	is($pair->sql_target('SELECT count(*) FROM app.local_target'), 5, 'and the rows have come');
}

# Dropping a migration drops what it made, not what its owner put in the way.
{
	$pair->sql_target(q{
		CREATE SCHEMA shared;
		CREATE TABLE shared.treasure (id int);
		GRANT USAGE, CREATE ON SCHEMA shared TO boss;
	});
	my $result = as_role('boss', q{
		CREATE TABLE app.t2 (id int PRIMARY KEY, val text);
		SELECT rehome.create_migration('mover', 'tcp', 'evil');
	});
	as_role('boss', q{CREATE SCHEMA evil_target; CREATE TABLE evil_target.t (id int PRIMARY KEY, val text); SELECT rehome.add_schema('mover', 'evil', 'evil_target')});
	my $foreign = $pair->sql_target(q{SELECT t.source FROM rehome.table_map t JOIN rehome.slice s ON s.id = t.slice_id JOIN rehome.migration m ON m.id = s.migration_id WHERE m.name = 'mover'});
	is(as_role('boss', "ALTER FOREIGN TABLE $foreign SET SCHEMA shared")->{sqlstate}, '00000', 'the owner moves his foreign table into a schema of others');
	as_role('boss', q{SELECT rehome.drop_migration('mover')});
	is($pair->sql_target(q{SELECT to_regclass('shared.treasure')}), 'shared.treasure', 'drop_migration() does not drop what is theirs');
}

# Rows of somebody else's table that lose their parent keep the cutover, and are
# counted; what is in them is for those to see who may read it.
{
	$pair->sql_source(q{CREATE SCHEMA fk; CREATE TABLE fk.par (id text PRIMARY KEY); INSERT INTO fk.par VALUES ('known'), ('hidden')});
	$pair->grant_source('fk');
	$pair->sql_target(q{
		CREATE ROLE mover LOGIN IN ROLE rehome_admin; CREATE ROLE keeper LOGIN;
		GRANT USAGE ON FOREIGN SERVER src TO mover; CREATE USER MAPPING FOR mover SERVER src OPTIONS (user 'rehome_src', password 'secret');
		CREATE SCHEMA fk AUTHORIZATION mover; CREATE SCHEMA fk_far AUTHORIZATION mover; CREATE SCHEMA kept AUTHORIZATION keeper;
		GRANT USAGE ON SCHEMA fk TO keeper});
	is(as_role('mover', q{IMPORT FOREIGN SCHEMA fk FROM SERVER src INTO fk_far; CREATE TABLE fk.par (id text PRIMARY KEY); GRANT SELECT, REFERENCES ON fk.par TO keeper;
		SELECT rehome.create_migration('keys', 'src', 'x'); SELECT rehome.add_table('keys', 'fk_far.par', 'fk.par'); CALL rehome.copy('keys')})->{sqlstate}, '00000', 'a parent is moved');
	is(as_role('keeper', q{CREATE TABLE kept.child (id int PRIMARY KEY, pid text REFERENCES fk.par); INSERT INTO kept.child VALUES (1, 'hidden')})->{sqlstate}, '00000', 'and has a child of another owner');
	$pair->sql_source(q{DELETE FROM fk.par WHERE id = 'hidden'});
	for my $step (
		[ '', 'who may not read the child' ],
		[ 'GRANT SELECT ON kept.child TO mover', 'who may not use its schema' ],
		[ 'GRANT USAGE ON SCHEMA kept TO mover', 'who may' ])
	{
		my ($grant, $who) = @$step;
		as_role('keeper', $grant) if $grant ne '';
		my $result = as_role('mover', q{CALL rehome.cutover('keys')});
		is($result->{sqlstate}, 'RH003', "$who: rows without a parent are a gate");
		my $values = $who eq 'who may' ? ', as (hidden)' : '';
		like($result->{stderr}, qr/violated by 1 rows without a parent in fk\.par\Q$values\E; kept\.child is not moved with it/, "$who: " . ($values eq '' ? 'without their values' : 'with one of them'));
	}
}

# Objects planted where a search would find them first.
$_->(q{
	CREATE SCHEMA trap;
	GRANT USAGE ON SCHEMA trap TO PUBLIC;
	CREATE TABLE trap.caught (what text, by name DEFAULT current_user);
	GRANT SELECT, INSERT ON trap.caught TO PUBLIC;
}) for sub { $pair->sql_source(@_) }, sub { $pair->sql_target(@_) };
my $plants = join '', map {
	my ($name, $args, $returns) = @$_;
	"CREATE FUNCTION public.$name($args) RETURNS $returns LANGUAGE plpgsql AS \$f\$BEGIN INSERT INTO trap.caught VALUES ('$name'); RAISE EXCEPTION 'hijacked: $name'; END\$f\$;\n"
} ([ 'quote_ident', 'text', 'text' ], [ 'to_regclass', 'text', 'regclass' ], [ 'format', 'text, VARIADIC "any"', 'text' ], [ 'format', 'text, text, text', 'text' ],
	[ 'txid_current', '', 'bigint' ], [ 'txid_current_snapshot', '', 'txid_snapshot' ], [ 'pg_current_snapshot', '', 'pg_snapshot' ], [ 'clock_timestamp', '', 'timestamptz' ],
	[ 'hashtextextended', 'text, bigint', 'bigint' ], [ 'coalesce_it', 'text', 'text' ], [ 'pg_relation_size', 'regclass', 'bigint' ], [ 'current_setting', 'text', 'text' ],
	[ 'text_eq', 'text, text', 'boolean' ], [ 'int_eq', 'int, int', 'boolean' ], [ 'bigint_ge', 'bigint, bigint', 'boolean' ], [ 'record_ne', 'record, record', 'boolean' ], [ 'name_eq', 'name, name', 'boolean' ]);
$plants =~ s/CREATE FUNCTION public\.format\(text, VARIADIC "any"\).*\n//;
$plants .= join '', map { "CREATE OPERATOR public.$_->[0] (FUNCTION = public.$_->[1], LEFTARG = $_->[2], RIGHTARG = $_->[2]);\n" }
  ([ '=', 'text_eq', 'text' ], [ '=', 'int_eq', 'int' ], [ '>=', 'bigint_ge', 'bigint' ], [ '*<>', 'record_ne', 'record' ], [ '<>', 'record_ne', 'record' ], [ '=', 'name_eq', 'name' ]);
$plants .= join '', map { "CREATE TABLE public.$_ (LIKE trap.caught);\n" }
  qw(slice migration table_map chunk applying pg_class pg_locks pg_trigger pg_namespace rehome_rows rehome_keys rehome_gone);
for my $side (qw(source target))
{
	my $node = $pair->$side;
	$node->safe_psql('postgres', q{CREATE ROLE villain LOGIN; GRANT CREATE ON SCHEMA public TO villain; ALTER DATABASE postgres SET search_path = public, pg_catalog});
	my $result = finish_psql(start_psql($node, $plants, user => 'villain', options => '-c search_path=pg_catalog'));
	is($result->{sqlstate}, '00000', "planted at the $side") or diag($result->{stderr});
	isnt((sqlstate_of($node, q{SELECT 1 = 1}))[0], '00000', "a careless session at the $side would be caught");
}
{
	# those who call and who write have them in their search_path too, and in pg_temp
	my $caller = q{
		\set VERBOSITY verbose
		SET client_min_messages = warning;
		SET search_path = pg_catalog;
		CREATE TEMP TABLE slice (LIKE trap.caught); CREATE TEMP TABLE pg_class (LIKE trap.caught); CREATE TEMP TABLE pg_locks (LIKE trap.caught);
		CREATE TEMP TABLE rehome_rows (LIKE trap.caught); CREATE TEMP TABLE rehome_keys (LIKE trap.caught); CREATE TEMP TABLE rehome_gone (LIKE trap.caught);
		SET search_path = public, pg_temp, pg_catalog;
	};
	$pair->sql_target(q{SET search_path = pg_catalog; CREATE SCHEMA plain; CREATE TABLE plain.item (id int PRIMARY KEY, code text UNIQUE, qty int)});
	$pair->sql_source(q{SET search_path = pg_catalog; CREATE SCHEMA plain; CREATE TABLE plain.item (id int PRIMARY KEY, code text UNIQUE, qty int);
		INSERT INTO plain.item SELECT i, 'c' || i, 0 FROM generate_series(1, 50) i; GRANT USAGE ON SCHEMA plain TO villain, rehome_src; GRANT ALL ON plain.item TO villain, rehome_src; GRANT CREATE ON DATABASE postgres TO rehome_src});
	my $write = q{SET search_path = public, pg_catalog; DELETE FROM plain.item WHERE id OPERATOR(pg_catalog.=) 3; UPDATE plain.item SET id = id OPERATOR(pg_catalog.+) 1000 WHERE id OPERATOR(pg_catalog.=) 4; INSERT INTO plain.item VALUES (%d, 'new %d', 1)};
	my $fetch = sub { my ($sql) = @_; return finish_psql(start_psql($target, "$caller\n$sql")) };
	my $id = 2000;
	for my $step (
		[ 'target', q{SELECT rehome.create_migration('p', 'src', 'a test of traps')} ],
		[ 'target', q{SELECT rehome.add_schema('p', 'plain', 'plain')} ],
		[ 'target', q{SELECT * FROM rehome.plan('p')} ],
		[ 'target', q{SELECT * FROM rehome.preflight('p')} ],
		[ 'target', q{CALL rehome.copy('p')} ],
		[ 'source' ],
		[ 'target', q{CALL rehome.sync('p')} ],
		[ 'target', q{SELECT * FROM rehome.verify('p')} ],
		[ 'target', q{SELECT * FROM rehome.verify('p', mode => 'rows')} ],
		[ 'target', q{SELECT * FROM rehome.status} ],
		[ 'target', q{SELECT * FROM rehome.progress} ],
		[ 'source' ],
		[ 'target', q{CALL rehome.cutover('p')} ],
		[ 'target write' ],
		[ 'target', q{CALL rehome.sync('p')} ],
		[ 'target write' ],
		[ 'target', q{CALL rehome.rollback('p')} ],
		[ 'target', q{CALL rehome.recover('p')} ],
		[ 'target', q{CALL rehome.sync('p')} ],
		[ 'target', q{SELECT rehome.pause('p')} ],
		[ 'target', q{SELECT rehome.resume('p')} ],
		[ 'target', q{CALL rehome.cancel('p')} ],
		[ 'target', q{SELECT rehome.drop_migration('p')} ])
	{
		my ($where, $sql) = @$step;
		if ($where =~ /^target$/)
		{
			my $result = $fetch->($sql);
			is($result->{sqlstate}, '00000', "among traps: $sql") or diag($result->{stderr});
			next;
		}
		$id++;
		my $result = finish_psql(start_psql($where eq 'source' ? $source : $target, sprintf($write, $id, $id), $where eq 'source' ? (user => 'villain') : ()));
		is($result->{sqlstate}, '00000', "among traps: a writer at the " . ($where eq 'source' ? 'source' : 'target')) or diag($result->{stderr});
	}
	my $read = q{SET search_path = pg_catalog; SELECT count(*) || ' ' || md5(string_agg(t::text, ',' ORDER BY id)) FROM plain.item t};
	is($pair->sql_target($read), $pair->sql_source($read), 'among traps: the same content on both sides');
	for my $side (qw(source target))
	{
		is($pair->$side->safe_psql('postgres', q{SET search_path = pg_catalog; SELECT string_agg(DISTINCT what || ' as ' || by, ', ') FROM trap.caught}), '', "nothing was caught at the $side");
	}
}

# A role at the source by a name that has to be quoted.
{
	$pair->sql_source(q{CREATE ROLE "Mover-1" LOGIN PASSWORD 'secret'; CREATE DATABASE quoted OWNER "Mover-1"});
	$source->safe_psql('quoted', q{SET ROLE "Mover-1"; CREATE SCHEMA q; CREATE TABLE q.a (id int PRIMARY KEY); CREATE TABLE q.b (id int PRIMARY KEY); INSERT INTO q.a VALUES (1); INSERT INTO q.b VALUES (1)});
	$pair->sql_target(qq{
		CREATE SCHEMA q; CREATE TABLE q.a (id int PRIMARY KEY); CREATE TABLE q.b (id int PRIMARY KEY);
		CREATE SERVER quoted FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '$port', dbname 'quoted');
		CREATE USER MAPPING FOR CURRENT_USER SERVER quoted OPTIONS (user 'Mover-1', password 'secret');
		CREATE SCHEMA q_far; IMPORT FOREIGN SCHEMA q FROM SERVER quoted INTO q_far;
	});
	for my $table (qw(a b))
	{
		$pair->sql_target("SELECT rehome.create_migration('q_$table', 'quoted', 'x'); SELECT rehome.add_table('q_$table', 'q_far.$table', 'q.$table')");
		my ($sqlstate, $message) = sqlstate_of($target, "CALL rehome.copy('q_$table')");
		is($sqlstate, '00000', "a role whose name needs quotes: table $table") or diag($message);
	}
}

done_testing();
