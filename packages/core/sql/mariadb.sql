create table if not exists `orderbridge_migration` (`name` varchar(191) primary key, `executed_at` bigint not null) engine = InnoDB default charset = utf8mb4 collate = utf8mb4_nopad_bin;

create table if not exists `orderbridge_watermark` (`key` varchar(191) primary key, `position` longtext not null) engine = InnoDB default charset = utf8mb4 collate = utf8mb4_nopad_bin;

create table if not exists `orderbridge_lease` (`name` varchar(191) primary key, `holder` longtext not null, `fencing_token` bigint not null, `ends_at` bigint not null) engine = InnoDB default charset = utf8mb4 collate = utf8mb4_nopad_bin;

create table if not exists `orderbridge_idempotency` (`scope` varchar(191) not null, `key` varchar(191) not null, `fingerprint` longtext not null, `token` varchar(191) not null, `ends_at` bigint not null, `result` longtext, constraint `orderbridge_idempotency_key` primary key (`scope`, `key`)) engine = InnoDB default charset = utf8mb4 collate = utf8mb4_nopad_bin;

create table if not exists `orderbridge_token` (`key` varchar(191) primary key, `access_token` longtext not null, `refresh_token` longtext, `expires_at` bigint, `host` longtext, `version` bigint not null, `state` varchar(191) not null) engine = InnoDB default charset = utf8mb4 collate = utf8mb4_nopad_bin;

create table if not exists `orderbridge_outbox` (`position` bigint auto_increment primary key, `id` varchar(191) not null, `topic` varchar(191) not null, `key` varchar(191) not null, `destination` varchar(191) not null, `payload` longtext not null, `state` varchar(16) not null, `attempts` bigint not null, `created_at` bigint not null, `due_at` bigint not null, `claim` varchar(191), `claim_ends_at` bigint not null, `last_error` longtext) engine = InnoDB default charset = utf8mb4 collate = utf8mb4_nopad_bin;

create unique index if not exists `orderbridge_outbox_id` on `orderbridge_outbox` (`id`);

create index if not exists `orderbridge_outbox_due` on `orderbridge_outbox` (`state`, `topic`, `due_at`);

create index if not exists `orderbridge_outbox_order` on `orderbridge_outbox` (`state`, `topic`, `key`, `position`);

create index if not exists `orderbridge_outbox_claim` on `orderbridge_outbox` (`claim`);

create table if not exists `orderbridge_rate_limit` (`account` varchar(191) primary key, `drained_at` bigint, `paused_until` bigint not null, `blocked_since` bigint, `block_code` longtext) engine = InnoDB default charset = utf8mb4 collate = utf8mb4_nopad_bin;

alter table `orderbridge_lease` add column if not exists `ttl_ms` bigint;

alter table `orderbridge_rate_limit` add column if not exists `written_at` bigint;
