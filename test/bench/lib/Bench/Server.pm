# Bench::Server: one of the two clusters, which test/bench/run has made and
# started: connections to it, its databases, and what its processes use up. It
# never decides what is measured.
package Bench::Server;

use strict;
use warnings;

use DBI;
use POSIX ();
use Time::HiRes qw(usleep);

my $ticks = POSIX::sysconf(&POSIX::_SC_CLK_TCK);

# Processes that every server has, whoever uses it.
my $auxiliary = qr/^postgres: (?:checkpointer|background writer|walwriter|startup|archiver|logger|autovacuum|logical replication launcher|walsender)/;

# new(name, directory): the directory has the socket and, in data/, the cluster.
sub new
{
	my ($class, $name, $dir) = @_;
	open my $fh, '<', "$dir/data/postmaster.pid" or die "no server in $dir: $!\n";
	chomp(my $pid = <$fh>);
	close $fh or die "cannot read the pid of the server in $dir: $!\n";
	return bless { name => $name, dir => $dir, pid => $pid, dbh => {} }, $class;
}

sub name { return $_[0]{name} }
sub dir  { return $_[0]{dir} }

sub conninfo
{
	my ($self, $dbname) = @_;
	return "host=$self->{dir} user=postgres dbname=$dbname";
}

sub uri
{
	my ($self, $dbname) = @_;
	return "postgresql://postgres@/$dbname?host=$self->{dir}";
}

sub dsn
{
	my ($self, $dbname) = @_;
	return "DBI:Pg:host=$self->{dir};dbname=$dbname";
}

# A connection of its own.
sub connect
{
	my ($self, $dbname) = @_;
	my $dbh = DBI->connect($self->dsn($dbname), 'postgres', '',
		{ AutoCommit => 1, RaiseError => 1, PrintError => 0, PrintWarn => 0, AutoInactiveDestroy => 1 });
	$dbh->do('SET client_min_messages = warning');
	return $dbh;
}

# The connection that the functions below share.
sub dbh
{
	my ($self, $dbname) = @_;
	return $self->{dbh}{$dbname} //= $self->connect($dbname);
}

sub disconnect
{
	my ($self, $dbname) = @_;
	my $dbh = delete $self->{dbh}{$dbname};
	$dbh->disconnect if $dbh;
	return;
}

sub do
{
	my ($self, $dbname, @statements) = @_;
	$self->dbh($dbname)->do($_) for @statements;
	return;
}

# The one value, or the one column, that a query gives.
sub value
{
	my ($self, $dbname, $sql, @bind) = @_;
	return scalar $self->dbh($dbname)->selectrow_array($sql, undef, @bind);
}

sub column
{
	my ($self, $dbname, $sql, @bind) = @_;
	return @{ $self->dbh($dbname)->selectcol_arrayref($sql, undef, @bind) };
}

# A fresh, empty database, in the place of one that there may be.
sub create_database
{
	my ($self, $dbname) = @_;
	$self->drop_database($dbname);
	$self->do('postgres', "CREATE DATABASE $dbname");
	return;
}

sub drop_database
{
	my ($self, $dbname) = @_;
	$self->disconnect($dbname);
	$self->do('postgres', "DROP DATABASE IF EXISTS $dbname WITH (FORCE)");
	return;
}

# Bytes of all tables, without their indexes.
sub table_bytes
{
	my ($self, $dbname) = @_;
	return $self->value($dbname, q{
		SELECT sum(pg_table_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		 WHERE c.relkind = 'r' AND n.nspname !~ '^(pg_|rehome|information_schema)'});
}

sub _children
{
	my ($self) = @_;
	my $file = "/proc/$self->{pid}/task/$self->{pid}/children";
	open my $fh, '<', $file or die "cannot read $file: $!\n";
	my $line = <$fh> // '';
	close $fh or die "cannot read $file: $!\n";
	return split ' ', $line;
}

# Seconds of CPU that a process, and the children it has waited for, have used;
# of one that has gone meanwhile, nothing: its parent has it.
sub _cpu_of
{
	my ($pid) = @_;
	open my $fh, '<', "/proc/$pid/stat" or return 0;
	my $line = <$fh>;
	close $fh or return 0;
	return 0 unless defined $line;
	my @field = split ' ', $line =~ s/^.*\) //r;
	my $used = 0;
	$used += $_ for @field[ 11 .. 14 ];
	return $used / $ticks;
}

# Seconds of CPU that the server has used since it was started.
sub cpu
{
	my ($self) = @_;
	my $used = 0;
	$used += _cpu_of($_) for $self->_children, $self->{pid};
	return $used;
}

# Private memory of a process, in bytes, and its title; () when it has gone.
# RssAnon leaves out the shared buffers it has touched.
sub _memory_of
{
	my ($pid) = @_;
	open my $fh, '<', "/proc/$pid/status" or return;
	my ($anonymous) = map { /^RssAnon:\s+(\d+) kB/ ? $1 * 1024 : () } <$fh>;
	close $fh or return;
	open $fh, '<', "/proc/$pid/cmdline" or return;
	my $title = <$fh> // '';
	close $fh or return;
	return ($anonymous // 0, $title =~ s/\0.*//sr);
}

# {pid => [bytes, title]} of the processes that serve somebody else than the
# functions above.
sub memory
{
	my ($self) = @_;
	my %memory;
	my %own = map { $_->{pg_pid} => 1 } values %{ $self->{dbh} };
	for my $pid ($self->_children)
	{
		next if $own{$pid};
		my ($bytes, $title) = _memory_of($pid) or next;
		$memory{$pid} = [ $bytes, "$self->{name}, $title" ] unless $title =~ $auxiliary;
	}
	return \%memory;
}

# Private memory of a session that has done nothing yet.
sub idle_memory
{
	my ($self, $dbname) = @_;
	my $dbh = $self->connect($dbname);
	my ($bytes) = _memory_of($dbh->{pg_pid}) or die "a session of the $self->{name} has gone\n";
	$dbh->disconnect;
	return $bytes;
}

1;
