//! The file system behind [`FaultyMount`](super::FaultyMount): every operation
//! is done on the backing directory, by descriptor, as the user who asked.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::fs::{AtFlags, Mode, OFlags};

use super::{Faults, Op, WhenFull, locked};

/// The kernel remembers nothing: each look-up comes here.
const NO_TIME: Duration = Duration::ZERO;
const NOBODY: u32 = 65_534;
const ROOT: u64 = 1;

const READ: u32 = 4;
const WRITE: u32 = 2;
const SEARCH: u32 = 1;

/// A file that a client knows, whatever its name is by now.
struct Node {
    number: u64,
    /// Opened with `O_PATH`; keeps the backing inode from being used again.
    handle: File,
    identity: (u64, u64),
    name: Mutex<String>,
}

impl Node {
    /// A path that leads to this file and no other.
    fn path(&self) -> String {
        use std::os::fd::AsRawFd;
        format!("/proc/self/fd/{}", self.handle.as_raw_fd())
    }

    fn name(&self) -> String {
        locked(&self.name).clone()
    }

    fn rename(&self, name: &OsStr) {
        *locked(&self.name) = name.to_string_lossy().into_owned();
    }

    fn attributes(&self) -> io::Result<FileAttr> {
        let meta = self.handle.metadata()?;
        let file_type = meta.file_type();
        let kind = if file_type.is_dir() {
            FileType::Directory
        } else if file_type.is_symlink() {
            FileType::Symlink
        } else if file_type.is_fifo() {
            FileType::NamedPipe
        } else if file_type.is_socket() {
            FileType::Socket
        } else if file_type.is_block_device() {
            FileType::BlockDevice
        } else if file_type.is_char_device() {
            FileType::CharDevice
        } else {
            FileType::RegularFile
        };
        let changed = u64::try_from(meta.ctime()).unwrap_or(0);
        let nanos = u32::try_from(meta.ctime_nsec()).unwrap_or(0);
        Ok(FileAttr {
            ino: INodeNo(self.number),
            size: meta.size(),
            blocks: meta.blocks(),
            atime: meta.accessed()?,
            mtime: meta.modified()?,
            ctime: SystemTime::UNIX_EPOCH + Duration::new(changed, nanos),
            crtime: SystemTime::UNIX_EPOCH,
            kind,
            perm: u16::try_from(meta.mode() & 0o7777).unwrap_or(0),
            nlink: u32::try_from(meta.nlink()).unwrap_or(u32::MAX),
            uid: meta.uid(),
            gid: meta.gid(),
            rdev: u32::try_from(meta.rdev()).unwrap_or(0),
            blksize: 4096,
            flags: 0,
        })
    }
}

#[derive(Default)]
struct Table {
    nodes: HashMap<u64, (Arc<Node>, u64)>,
    by_identity: HashMap<(u64, u64), u64>,
    /// What the clients of this mount last saw under each name.
    seen: HashMap<(u64, OsString), Option<Arc<Node>>>,
    last: u64,
}

impl Table {
    /// The node of this file, known or new.
    fn node(&mut self, handle: File, name: &OsStr) -> io::Result<Arc<Node>> {
        let meta = handle.metadata()?;
        let identity = (meta.dev(), meta.ino());
        if let Some((node, _)) = self
            .by_identity
            .get(&identity)
            .and_then(|n| self.nodes.get(n))
        {
            node.rename(name);
            return Ok(node.clone());
        }
        self.last += 1;
        let number = self.last;
        let name = Mutex::new(name.to_string_lossy().into_owned());
        Ok(Arc::new(Node {
            number,
            handle,
            identity,
            name,
        }))
    }

    /// Counts one more reference of the kernel to this node.
    fn hold(&mut self, node: &Arc<Node>) {
        let entry = self
            .nodes
            .entry(node.number)
            .or_insert_with(|| (node.clone(), 0));
        entry.1 += 1;
        self.by_identity.insert(node.identity, node.number);
    }

    fn release(&mut self, number: u64, references: u64) {
        let Some(entry) = self.nodes.get_mut(&number).filter(|_| number != ROOT) else {
            return;
        };
        entry.1 = entry.1.saturating_sub(references);
        if entry.1 == 0 {
            let identity = entry.0.identity;
            self.nodes.remove(&number);
            if self.by_identity.get(&identity) == Some(&number) {
                self.by_identity.remove(&identity);
            }
        }
    }
}

struct OpenFile {
    node: Arc<Node>,
    file: File,
    /// Bytes were taken and lost: `fsync` and `close` say so.
    lost: std::sync::atomic::AtomicBool,
}

type Listing = Vec<(u64, FileType, OsString)>;

pub(super) struct PassThrough {
    faults: Arc<Faults>,
    table: Mutex<Table>,
    files: Mutex<HashMap<u64, Arc<OpenFile>>>,
    listings: Mutex<HashMap<u64, Arc<Listing>>>,
    last_handle: AtomicU64,
}

/// Does what follows with the rights of this user, in this thread.
struct ActingAs;

impl ActingAs {
    fn user(uid: u32, gid: u32) -> Self {
        setfsgid(Gid::from_raw(gid));
        setfsuid(Uid::from_raw(uid));
        ActingAs
    }
}

impl Drop for ActingAs {
    fn drop(&mut self) {
        setfsuid(Uid::from_raw(0));
        setfsgid(Gid::from_raw(0));
    }
}

impl PassThrough {
    pub(super) fn over(backing: &Path, faults: Arc<Faults>) -> io::Result<Self> {
        let handle = path_handle(rustix::fs::CWD, backing)?;
        let mut table = Table::default();
        let root = table.node(handle, OsStr::new("/"))?;
        assert_eq!(root.number, ROOT);
        table.hold(&root);
        Ok(PassThrough {
            faults,
            table: Mutex::new(table),
            files: Mutex::default(),
            listings: Mutex::default(),
            last_handle: AtomicU64::new(0),
        })
    }

    fn node(&self, number: INodeNo) -> Result<Arc<Node>, Errno> {
        let table = locked(&self.table);
        table
            .nodes
            .get(&number.0)
            .map(|(node, _)| node.clone())
            .ok_or(Errno::ESTALE)
    }

    /// A directory in which names can be looked up: not one that is removed.
    fn directory(&self, number: INodeNo) -> Result<Arc<Node>, Errno> {
        let node = self.node(number)?;
        if node.handle.metadata()?.nlink() == 0 {
            return Err(Errno::ESTALE);
        }
        Ok(node)
    }

    fn file(&self, handle: FileHandle) -> Result<Arc<OpenFile>, Errno> {
        locked(&self.files)
            .get(&handle.0)
            .cloned()
            .ok_or(Errno::EBADF)
    }

    /// Who asks, as the file server sees it.
    fn caller(&self, request: &Request) -> (u32, u32) {
        if request.uid() == 0 && self.squashes_root() {
            return (NOBODY, NOBODY);
        }
        (request.uid(), request.gid())
    }

    fn squashes_root(&self) -> bool {
        self.faults.squash_root.load(Ordering::SeqCst)
    }

    /// The kernel checks modes for everybody but root; a squashed root is
    /// checked here.
    fn permit(&self, request: &Request, node: &Node, wanted: u32) -> Result<(), Errno> {
        if request.uid() != 0 || !self.squashes_root() {
            return Ok(());
        }
        let meta = node.handle.metadata()?;
        let granted = match meta.uid() {
            NOBODY => meta.mode() >> 6,
            _ => meta.mode(),
        };
        if granted & wanted == wanted {
            return Ok(());
        }
        self.faults.count();
        Err(Errno::EACCES)
    }

    fn gate(&self, op: Op, name: &OsStr) -> Result<(), Errno> {
        self.faults.gate(op, &name.to_string_lossy())
    }

    fn remember<T>(
        &self,
        op: Op,
        name: &OsStr,
        target: Option<&OsStr>,
        answer: Result<T, Errno>,
    ) -> Result<T, Errno> {
        let code = answer.as_ref().err().map_or(0, |errno| errno.code());
        let target = target.map(OsStr::to_string_lossy);
        self.faults
            .note(op, &name.to_string_lossy(), target.as_deref(), code);
        answer
    }

    fn look_up(&self, request: &Request, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        self.gate(Op::Lookup, name)?;
        let directory = self.directory(parent)?;
        self.permit(request, &directory, SEARCH)?;
        let found = match path_handle(&directory.handle, Path::new(name)) {
            Ok(handle) => Some(handle),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let mut table = locked(&self.table);
        let actual = found.map(|handle| table.node(handle, name)).transpose()?;
        let key = (parent.0, name.to_owned());
        let remembered = table.seen.get(&key).cloned();
        let served = match remembered {
            Some(old) if identity(&old) != identity(&actual) && self.faults.take_stale_lookup() => {
                old
            }
            _ => {
                table.seen.insert(key, actual.clone());
                actual
            }
        };
        let node = served.ok_or(Errno::ENOENT)?;
        let attributes = node.attributes()?;
        table.hold(&node);
        Ok(attributes)
    }

    /// Enters what was just made into the table.
    fn adopt(&self, parent: &Node, name: &OsStr, handle: File) -> Result<FileAttr, Errno> {
        let mut table = locked(&self.table);
        let node = table.node(handle, name)?;
        let attributes = node.attributes()?;
        table.hold(&node);
        table
            .seen
            .insert((parent.number, name.to_owned()), Some(node));
        Ok(attributes)
    }

    /// Forgets what was seen in a directory: whoever changes one, or tries to,
    /// learns from the server's answer that it is not as remembered.
    fn forget_entries(&self, directory: &Node) {
        let seen = &mut locked(&self.table).seen;
        seen.retain(|(parent, _), _| *parent != directory.number);
    }

    /// Checks common to everything that changes a directory.
    fn to_change(
        &self,
        request: &Request,
        op: Op,
        parent: INodeNo,
        name: &OsStr,
    ) -> Result<Arc<Node>, Errno> {
        self.gate(op, name)?;
        let directory = self.directory(parent)?;
        self.permit(request, &directory, WRITE | SEARCH)?;
        self.forget_entries(&directory);
        Ok(directory)
    }

    fn new_handle(&self) -> FileHandle {
        FileHandle(self.last_handle.fetch_add(1, Ordering::SeqCst) + 1)
    }

    fn keep_open(&self, node: Arc<Node>, file: File) -> FileHandle {
        let handle = self.new_handle();
        let open = OpenFile {
            node,
            file,
            lost: false.into(),
        };
        locked(&self.files).insert(handle.0, Arc::new(open));
        handle
    }

    fn do_open(
        &self,
        request: &Request,
        number: INodeNo,
        flags: OpenFlags,
    ) -> Result<FileHandle, Errno> {
        let node = self.node(number)?;
        self.gate(Op::Open, OsStr::new(&node.name()))?;
        let flags = OFlags::from_bits_retain(flags.0.cast_unsigned());
        let wanted = match flags & OFlags::RWMODE {
            f if f == OFlags::RDWR => READ | WRITE,
            f if f == OFlags::WRONLY => WRITE,
            _ => READ,
        };
        if wanted & WRITE != 0 && self.faults.read_only.load(Ordering::SeqCst) {
            return Err(Errno::EROFS);
        }
        self.permit(request, &node, wanted)?;
        if node.handle.metadata()?.nlink() == 0 {
            return Err(Errno::ESTALE);
        }
        let kept = OFlags::RWMODE | OFlags::APPEND | OFlags::TRUNC;
        let file = rustix::fs::open(node.path(), flags & kept | OFlags::CLOEXEC, Mode::empty());
        Ok(self.keep_open(node, File::from(file.map_err(io::Error::from)?)))
    }

    fn do_create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        flags: i32,
    ) -> Result<(FileAttr, FileHandle), Errno> {
        let directory = self.to_change(request, Op::Create, parent, name)?;
        let (uid, gid) = self.caller(request);
        let flags = OFlags::from_bits_retain(flags.cast_unsigned());
        let kept = OFlags::RWMODE | OFlags::APPEND | OFlags::TRUNC | OFlags::EXCL;
        let file = {
            let _as = ActingAs::user(uid, gid);
            let flags = flags & kept | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(
                &directory.handle,
                name,
                flags,
                Mode::from_raw_mode(mode & 0o7777),
            )
        };
        let file = File::from(file.map_err(io::Error::from)?);
        let attributes = self.adopt(&directory, name, another_handle(&file)?)?;
        let node = self.node(attributes.ino)?;
        Ok((attributes, self.keep_open(node, file)))
    }

    fn do_make_dir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
    ) -> Result<FileAttr, Errno> {
        let directory = self.to_change(request, Op::MakeDir, parent, name)?;
        let (uid, gid) = self.caller(request);
        {
            let _as = ActingAs::user(uid, gid);
            rustix::fs::mkdirat(&directory.handle, name, Mode::from_raw_mode(mode & 0o7777))
                .map_err(io::Error::from)?;
        }
        let handle = path_handle(&directory.handle, Path::new(name))?;
        self.adopt(&directory, name, handle)
    }

    fn do_sym_link(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: &Path,
    ) -> Result<FileAttr, Errno> {
        let directory = self.to_change(request, Op::SymLink, parent, name)?;
        let (uid, gid) = self.caller(request);
        {
            let _as = ActingAs::user(uid, gid);
            rustix::fs::symlinkat(to, &directory.handle, name).map_err(io::Error::from)?;
        }
        let handle = path_handle(&directory.handle, Path::new(name))?;
        self.adopt(&directory, name, handle)
    }

    fn do_link(
        &self,
        request: &Request,
        number: INodeNo,
        parent: INodeNo,
        name: &OsStr,
    ) -> Result<FileAttr, Errno> {
        let directory = self.to_change(request, Op::Link, parent, name)?;
        let node = self.node(number)?;
        rustix::fs::linkat(
            rustix::fs::CWD,
            node.path(),
            &directory.handle,
            name,
            AtFlags::SYMLINK_FOLLOW,
        )
        .map_err(io::Error::from)?;
        let handle = path_handle(&directory.handle, Path::new(name))?;
        self.adopt(&directory, name, handle)
    }

    fn do_remove(
        &self,
        request: &Request,
        op: Op,
        parent: INodeNo,
        name: &OsStr,
    ) -> Result<(), Errno> {
        let directory = self.to_change(request, op, parent, name)?;
        let flags = match op {
            Op::RemoveDir => AtFlags::REMOVEDIR,
            _ => AtFlags::empty(),
        };
        rustix::fs::unlinkat(&directory.handle, name, flags).map_err(io::Error::from)?;
        Ok(())
    }

    fn do_rename(
        &self,
        request: &Request,
        (from, name): (INodeNo, &OsStr),
        (to, new_name): (INodeNo, &OsStr),
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        let source = self.to_change(request, Op::Rename, from, name)?;
        let target = self.directory(to)?;
        self.permit(request, &target, WRITE | SEARCH)?;
        self.forget_entries(&target);
        if !flags.is_empty() {
            return Err(Errno::EINVAL);
        }
        rustix::fs::renameat(&source.handle, name, &target.handle, new_name)
            .map_err(io::Error::from)?;
        Ok(())
    }

    fn do_set_attributes(
        &self,
        request: &Request,
        number: INodeNo,
        wanted: &Wanted,
    ) -> Result<FileAttr, Errno> {
        let node = self.node(number)?;
        self.gate(Op::SetAttributes, OsStr::new(&node.name()))?;
        let (caller, _) = self.caller(request);
        let meta = node.handle.metadata()?;
        if self.squashes_root() && request.uid() == 0 && meta.uid() != caller {
            self.faults.count();
            return Err(Errno::EPERM);
        }
        if wanted.uid.is_some() || wanted.gid.is_some() {
            std::os::unix::fs::chown(node.path(), wanted.uid, wanted.gid)?;
        }
        if let Some(mode) = wanted.mode {
            rustix::fs::chmod(node.path(), Mode::from_raw_mode(mode & 0o7777))
                .map_err(io::Error::from)?;
        }
        if let Some(size) = wanted.size {
            File::options()
                .write(true)
                .open(node.path())?
                .set_len(size)?;
        }
        if wanted.accessed.is_some() || wanted.modified.is_some() {
            let mut times = fs::FileTimes::new();
            if let Some(time) = wanted.accessed {
                times = times.set_accessed(moment(time));
            }
            if let Some(time) = wanted.modified {
                times = times.set_modified(moment(time));
            }
            File::open(node.path())?.set_times(times)?;
        }
        Ok(node.attributes()?)
    }

    fn do_list(&self, request: &Request, number: INodeNo) -> Result<FileHandle, Errno> {
        let node = self.directory(number)?;
        self.gate(Op::ReadDir, OsStr::new(&node.name()))?;
        self.permit(request, &node, READ)?;
        let mut entries: Listing = vec![
            (ROOT, FileType::Directory, OsString::from(".")),
            (ROOT, FileType::Directory, OsString::from("..")),
        ];
        for entry in fs::read_dir(node.path())? {
            let entry = entry?;
            let kind = FileType::from_std(entry.file_type()?).unwrap_or(FileType::RegularFile);
            entries.push((
                std::os::unix::fs::DirEntryExt::ino(&entry),
                kind,
                entry.file_name(),
            ));
        }
        let handle = self.new_handle();
        locked(&self.listings).insert(handle.0, Arc::new(entries));
        Ok(handle)
    }

    fn do_write(&self, handle: FileHandle, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let open = self.file(handle)?;
        self.gate(Op::Write, OsStr::new(&open.node.name()))?;
        let bytes = u64::try_from(data.len()).unwrap_or(u64::MAX);
        if self.faults.take_space(bytes)? {
            Ok(open.file.write_all_at(data, offset)?)
        } else {
            open.lost.store(true, Ordering::SeqCst);
            Ok(())
        }
    }

    fn do_finish(&self, op: Op, handle: FileHandle) -> Result<(), Errno> {
        let open = self.file(handle)?;
        let name = open.node.name();
        let answer = self.gate(op, OsStr::new(&name)).and_then(|()| {
            if open.lost.load(Ordering::SeqCst) {
                return Err(self.faults.spent());
            }
            if op == Op::Sync {
                open.file.sync_all()?;
            }
            Ok(())
        });
        self.remember(op, OsStr::new(&name), None, answer)
    }
}

struct Wanted {
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    accessed: Option<TimeOrNow>,
    modified: Option<TimeOrNow>,
}

fn moment(time: TimeOrNow) -> SystemTime {
    match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}

fn identity(node: &Option<Arc<Node>>) -> Option<(u64, u64)> {
    node.as_ref().map(|n| n.identity)
}

fn path_handle(directory: impl AsFd, name: &Path) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(
        directory,
        name,
        flags,
        Mode::empty(),
    )?))
}

fn another_handle(file: &File) -> io::Result<File> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

impl Filesystem for PassThrough {
    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.look_up(request, parent, name) {
            Ok(attributes) => reply.entry(&NO_TIME, &attributes, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn forget(&self, _: &Request, number: INodeNo, references: u64) {
        locked(&self.table).release(number.0, references);
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let answer = self.node(number).and_then(|node| {
            self.gate(Op::Attributes, OsStr::new(&node.name()))?;
            Ok(node.attributes()?)
        });
        match answer {
            Ok(attributes) => reply.attr(&NO_TIME, &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let wanted = Wanted {
            mode,
            uid,
            gid,
            size,
            accessed,
            modified,
        };
        match self.do_set_attributes(request, number, &wanted) {
            Ok(attributes) => reply.attr(&NO_TIME, &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        let answer = self.node(number).and_then(|node| {
            self.gate(Op::ReadLink, OsStr::new(&node.name()))?;
            Ok(rustix::fs::readlinkat(&node.handle, "", Vec::new()).map_err(io::Error::from)?)
        });
        match answer {
            Ok(target) => reply.data(target.as_bytes()),
            Err(errno) => reply.error(errno),
        }
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let answer = self.do_make_dir(request, parent, name, mode & !umask);
        match self.remember(Op::MakeDir, name, None, answer) {
            Ok(attributes) => reply.entry(&NO_TIME, &attributes, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: &Path,
        reply: ReplyEntry,
    ) {
        let answer = self.do_sym_link(request, parent, name, to);
        match self.remember(Op::SymLink, name, None, answer) {
            Ok(attributes) => reply.entry(&NO_TIME, &attributes, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn link(
        &self,
        request: &Request,
        number: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let old = self
            .node(number)
            .map(|node| node.name())
            .unwrap_or_default();
        let answer = self.do_link(request, number, parent, name);
        match self.remember(Op::Link, OsStr::new(&old), Some(name), answer) {
            Ok(attributes) => reply.entry(&NO_TIME, &attributes, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let answer = self.do_remove(request, Op::Unlink, parent, name);
        match self.remember(Op::Unlink, name, None, answer) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let answer = self.do_remove(request, Op::RemoveDir, parent, name);
        match self.remember(Op::RemoveDir, name, None, answer) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let answer = self.do_rename(request, (parent, name), (new_parent, new_name), flags);
        match self.remember(Op::Rename, name, Some(new_name), answer) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.do_open(request, number, flags) {
            Ok(handle) => reply.opened(handle, FopenFlags::FOPEN_DIRECT_IO),
            Err(errno) => reply.error(errno),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let answer = self.do_create(request, parent, name, mode & !umask, flags);
        match self.remember(Op::Create, name, None, answer) {
            Ok((attributes, handle)) => {
                reply.created(
                    &NO_TIME,
                    &attributes,
                    Generation(0),
                    handle,
                    FopenFlags::FOPEN_DIRECT_IO,
                );
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let answer = self.file(handle).and_then(|open| {
            self.gate(Op::Read, OsStr::new(&open.node.name()))?;
            // Nothing that these tests read is larger.
            let mut buffer = vec![0; usize::try_from(size).unwrap_or(0).min(1 << 20)];
            let got = open.file.read_at(&mut buffer, offset)?;
            buffer.truncate(got);
            Ok(buffer)
        });
        match answer {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let name = self
            .node(number)
            .map(|node| node.name())
            .unwrap_or_default();
        let answer = self.do_write(handle, offset, data);
        match self.remember(Op::Write, OsStr::new(&name), None, answer) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, handle: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        match self.do_finish(Op::Close, handle) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.do_finish(Op::Sync, handle) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        locked(&self.files).remove(&handle.0);
        reply.ok();
    }

    fn opendir(&self, request: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.do_list(request, number) {
            Ok(handle) => reply.opened(handle, FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some(listing) = locked(&self.listings).get(&handle.0).cloned() else {
            return reply.error(Errno::EBADF);
        };
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (index, (number, kind, name)) in listing.iter().enumerate().skip(from) {
            let next = u64::try_from(index).unwrap_or(u64::MAX) + 1;
            if reply.add(INodeNo(*number), next, *kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        locked(&self.listings).remove(&handle.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let name = self
            .node(number)
            .map(|node| node.name())
            .unwrap_or_default();
        let answer = self.gate(Op::SyncDir, OsStr::new(&name));
        match self.remember(Op::SyncDir, OsStr::new(&name), None, answer) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn statfs(&self, _: &Request, number: INodeNo, reply: ReplyStatfs) {
        let answer = self
            .node(number)
            .and_then(|node| Ok(rustix::fs::statvfs(node.path()).map_err(io::Error::from)?));
        let spent =
            locked(&self.faults.space).is_some_and(|s| s.left == 0 && s.when == WhenFull::Write);
        match answer {
            Ok(stat) => {
                let free = if spent { 0 } else { stat.f_bavail };
                let block = u32::try_from(stat.f_bsize).unwrap_or(4096);
                reply.statfs(
                    stat.f_blocks, free, free, stat.f_files, stat.f_ffree, block, 255, block,
                );
            }
            Err(errno) => reply.error(errno),
        }
    }
}
