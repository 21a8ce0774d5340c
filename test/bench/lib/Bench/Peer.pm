# Bench::Peer: the others: pgcopydb, native logical replication, postgres_fdw,
# pg_comparator, and plain COPY. Each may use as many jobs as we do.
package Bench::Peer;

use strict;
use warnings;

use Exporter 'import';
use File::Path qw(remove_tree);
use Time::HiRes qw(usleep);

our @EXPORT = qw(pgcopydb_clone
  logical_start logical_is_copied logical_stop
  fdw_prepare fdw_copy
  floor_copy
  comparator_prepare comparator_compare);

# pgcopydb creates the schema, copies, builds indexes and constraints, sets the
# sequences, and vacuums each table, which nobody else here does.
sub pgcopydb_clone
{
	my ($bench, $from, $to) = @_;
	my $dir = $bench->tmp . '/pgcopydb';
	$bench->run('pgcopydb', 'clone', '--source', $bench->source->uri($from), '--target', $bench->target->uri($to),
		'--dir', $dir, '--restart', '--table-jobs', $bench->jobs, '--index-jobs', $bench->jobs,
		'--split-tables-larger-than', '100 MB', '--no-owner', '--no-acl', '--skip-large-objects');
	remove_tree($dir);
	return;
}

# A publication of everything and a subscription that copies it first.
sub logical_start
{
	my ($bench, $from, $to) = @_;
	$bench->source->do($from, 'CREATE PUBLICATION bench FOR ALL TABLES');
	$bench->target->do($to, 'CREATE SUBSCRIPTION bench CONNECTION ' . _literal($bench->source->conninfo($from)) . ' PUBLICATION bench');
	return;
}

# Whether each table has been copied and follows.
sub logical_is_copied
{
	my ($bench, $to) = @_;
	return $bench->target->value($to, q{SELECT count(*) > 0 AND bool_and(srsubstate = 'r') FROM pg_subscription_rel});
}

sub logical_stop
{
	my ($bench, $from, $to) = @_;
	$bench->target->do($to, 'DROP SUBSCRIPTION bench');
	$bench->source->do($from, 'DROP PUBLICATION bench');
	return;
}

sub fdw_prepare
{
	my ($bench, $from, $to) = @_;
	my $host = $bench->source->dir;
	$bench->target->do($to, 'CREATE EXTENSION postgres_fdw',
		"CREATE SERVER src FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', dbname '$from', fetch_size '10000')",
		q{CREATE USER MAPPING FOR CURRENT_USER SERVER src OPTIONS (user 'postgres')});
	return;
}

# Tables, INSERT ... SELECT from foreign tables, the largest first, then indexes
# and constraints.
sub fdw_copy
{
	my ($bench, $from, $to) = @_;
	my $target = $bench->target;
	my $dump   = _dump_schema($bench, $from);
	$bench->run($bench->program('pg_restore'), '--section=pre-data', '-d', $target->conninfo($to), $dump);
	$target->do($to, 'CREATE SCHEMA remote', 'IMPORT FOREIGN SCHEMA public FROM SERVER src INTO remote');
	_in_parallel($bench, $to, map { "INSERT INTO public.$_ OVERRIDING SYSTEM VALUE SELECT * FROM remote.$_" } _tables($bench, $from));
	$bench->run($bench->program('pg_restore'), '--section=post-data', '-j', $bench->jobs, '-d', $target->conninfo($to), $dump);
	$target->do($to, 'ANALYZE');
	return;
}

# The work nobody can do without: COPY to a file, COPY from it, and indexes and
# constraints, each in one process; returns the time it would take if all of it
# were spread evenly over the jobs.
sub floor_copy
{
	my ($bench, $from, $to) = @_;
	my $dump  = _dump_schema($bench, $from);
	my $began = Time::HiRes::time;
	$bench->run($bench->program('pg_restore'), '--section=pre-data', '-d', $bench->target->conninfo($to), $dump);
	for my $table (_tables($bench, $from))
	{
		my $file = $bench->tmp . "/$table.copy";
		$bench->source->do($from, "COPY $table TO " . _literal($file));
		$bench->target->do($to, "COPY $table FROM " . _literal($file));
		unlink $file or die "cannot remove $file: $!\n";
	}
	local $ENV{PGOPTIONS} = '-c max_parallel_maintenance_workers=0';
	$bench->run($bench->program('pg_restore'), '--section=post-data', '-d', $bench->target->conninfo($to), $dump);
	$bench->target->do($to, 'ANALYZE');
	return (Time::HiRes::time - $began) / $bench->jobs;
}

# Tables of schema public, the largest first.
sub _tables
{
	my ($bench, $from) = @_;
	return $bench->source->column($from, q{
		SELECT quote_ident(relname) FROM pg_class
		 WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY pg_table_size(oid) DESC});
}

sub _dump_schema
{
	my ($bench, $from) = @_;
	my $file = $bench->tmp . '/schema.dump';
	$bench->run($bench->program('pg_dump'), '--schema-only', '-Fc', '-f', $file, '-d', $bench->source->conninfo($from));
	return $file;
}

# Statements, as many at a time as there are jobs.
sub _in_parallel
{
	my ($bench, $to, @statements) = @_;
	my @idle = map { $bench->target->connect($to) } 1 .. $bench->jobs;
	my @busy;
	while (@statements || @busy)
	{
		while (@statements && @idle)
		{
			my $dbh = pop @idle;
			$dbh->do(shift @statements, { pg_async => DBD::Pg::PG_ASYNC() });
			push @busy, $dbh;
		}
		my @still;
		for my $dbh (@busy)
		{
			if ($dbh->pg_ready) { $dbh->pg_result; push @idle, $dbh }
			else                { push @still, $dbh }
		}
		@busy = @still;
		usleep(1_000) if @busy;
	}
	$_->disconnect for @idle;
	return;
}

sub comparator_prepare
{
	my ($bench, $from, $to) = @_;
	$bench->source->do($from, 'CREATE EXTENSION pgcmp');
	$bench->target->do($to, 'CREATE EXTENSION pgcmp');
	return;
}

# Returns the keys that pg_comparator finds to differ, with its own settings, or
# with those that were seen to help it: the key is an integer that is evenly
# distributed, so it need not be hashed; filling the checksum table by INSERT
# spares a count.
sub comparator_compare
{
	my ($bench, $from, $to, $table, $key, $columns, %option) = @_;
	my $what = "/$table?$key:" . join ',', @$columns;
	my $out = $bench->run('pg_comparator', $option{tuned} ? ('--use-key', '--cc=insert') : (), '--max-ratio', '2.0',
		'--source-1', $bench->source->dsn($from), '--source-2', $bench->target->dsn($to),
		"pgsql://postgres\@localhost/$from$what", "pgsql://postgres\@localhost/$to$what");
	return $out =~ /^(?:UPDATE|INSERT|DELETE) (\S+)/gm;
}

sub _literal
{
	my ($text) = @_;
	return "'" . $text =~ s/'/''/gr . "'";
}

1;
